//! Values: what is written for each, by what its place in the document says.

use crate::masker::{Act, Cursor, Frame, HELD_LIMIT, Lex, MaskError, Masker, TOKEN_LIMIT, fault};
use crate::plan::{RuleId, Step};
use crate::scan::InText;
use crate::shape::{Cells, Expectation, Form};
use crate::skip::Skip;
use crate::text::{escape_into, unescape};
use crate::token::Scalar;

impl Masker {
    /// The first byte of a value.
    pub(crate) fn value(&mut self, act: Act, byte: u8, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match byte {
            b'{' => self.object(act, c),
            b'[' => self.list(act, c),
            b'"' => self.string(act, c),
            byte => self.bare(act, byte, c),
        }
    }

    fn object(&mut self, act: Act, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match act {
            Act::Copy => self.pass_over(true, true, c),
            Act::Blank => self.blank_over(true, c),
            Act::Into(node) => match self.root_plan().map(|plan| plan.node(node)) {
                Some(found) if !found.ignores_members() => self.enter(Frame::Members(node), c),
                Some(_) | None => self.pass_over(true, true, c),
            },
            Act::Mask(rule) => self.enter(Frame::MaskedMembers(rule), c),
            Act::LastApplied => self.enter(Frame::MaskedMembers(self.fallback()), c),
            Act::Document if self.expectation().form == Form::Watch => self.enter(Frame::Event, c),
            Act::Document => {
                let form = self.expectation().form;
                self.enter_root(Self::EXPECTED, form, form != Form::Part, c)
            }
            Act::Embedded { whole } => self.enter_root(Self::EXPECTED, Form::Object, whole, c),
            Act::Item(kind) => self.enter_root(kind, Form::Object, false, c),
            Act::Row => self.enter(Frame::Row, c),
            Act::Kind | Act::ApiVersion | Act::Items(_) | Act::Rows | Act::Cells(_) => {
                self.unexpected("an object in the wrong place", c)
            }
        }
    }

    fn list(&mut self, act: Act, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match act {
            Act::Copy => self.pass_over(false, true, c),
            Act::Blank => self.blank_over(false, c),
            Act::Into(node) => match self.root_plan().map(|plan| plan.node(node)) {
                Some(found) if found.items != Step::Copy => self.enter(Frame::Elements(node), c),
                Some(_) | None => self.pass_over(false, true, c),
            },
            Act::Mask(rule) => self.enter(Frame::MaskedElements(rule), c),
            Act::LastApplied => self.enter(Frame::MaskedElements(self.fallback()), c),
            Act::Items(kind) => self.enter(Frame::Items(kind), c),
            Act::Rows => self.enter(Frame::Rows, c),
            Act::Cells(rule) => self.enter(Frame::Cells(rule, false), c),
            Act::Document | Act::Embedded { .. } | Act::Item(_) | Act::Row | Act::Kind | Act::ApiVersion => {
                self.unexpected("a list in the wrong place", c)
            }
        }
    }

    fn string(&mut self, act: Act, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match act {
            Act::Copy => {
                c.at += 1;
                self.text(InText::default(), c)
            }
            Act::Into(node) => {
                let found = self.root_plan().map(|plan| plan.node(node));
                match found.and_then(|node| Some((node.mask?, node.base64))) {
                    Some((rule, base64)) => {
                        c.copy();
                        c.put(self.plans.field(rule, base64));
                        self.replaced_string(rule, c)
                    }
                    None => self.string(Act::Copy, c),
                }
            }
            Act::Mask(rule) => {
                c.copy();
                c.put(self.plans.text(rule));
                self.replaced_string(rule, c)
            }
            Act::Blank => {
                c.copy();
                c.put(b"[]");
                c.at += 1;
                self.dropped(InText::default(), c)
            }
            Act::LastApplied => {
                c.copy();
                c.at += 1;
                self.held.clear();
                self.held(InText::default(), c)
            }
            Act::Kind | Act::ApiVersion => {
                c.at += 1;
                self.token.clear();
                self.named(InText::default(), act, c)
            }
            Act::Document
            | Act::Embedded { .. }
            | Act::Items(_)
            | Act::Item(_)
            | Act::Rows
            | Act::Row
            | Act::Cells(_) => self.unexpected("a string in the wrong place", c),
        }
    }

    /// A number or a word.
    pub(crate) fn bare(&mut self, act: Act, byte: u8, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        let scalar = Scalar::begin(byte).ok_or_else(|| MaskError::Syntax(self.position(c)))?;
        let null = byte == b'n';
        let mask = match act {
            Act::Copy => None,
            Act::Into(node) => self.root_plan().and_then(|plan| plan.node(node).mask),
            Act::Mask(rule) => Some(rule),
            Act::LastApplied => Some(self.fallback()),
            Act::Blank => {
                c.copy();
                c.put(b"[]");
                c.at += 1;
                return self.scalar(scalar, false, c);
            }
            Act::Embedded { whole: false } | Act::Items(_) | Act::Item(_) | Act::Rows | Act::Cells(_)
                if null =>
            {
                None
            }
            Act::Document
            | Act::Embedded { .. }
            | Act::Items(_)
            | Act::Item(_)
            | Act::Rows
            | Act::Row
            | Act::Cells(_)
            | Act::Kind
            | Act::ApiVersion => return self.unexpected("a number or word in the wrong place", c),
        };
        let Some(rule) = mask.filter(|_| !null) else {
            c.at += 1;
            return self.scalar(scalar, true, c);
        };
        c.copy();
        c.put(if matches!(byte, b't' | b'f') { b"false" } else { b"0" });
        self.count(rule);
        c.at += 1;
        self.scalar(scalar, false, c)
    }

    fn count(&mut self, rule: RuleId) {
        self.counts[rule.0 as usize] += 1;
    }

    fn fallback(&self) -> RuleId {
        self.root_plan().map_or(RuleId(0), |plan| plan.first)
    }

    fn replaced_string(&mut self, rule: RuleId, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        self.count(rule);
        c.at += 1;
        self.dropped(InText::default(), c)
    }

    fn pass_over(&mut self, object: bool, passes: bool, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        let mut skip = Skip::new(object, self.stack.len()).map_err(|f| fault(f, self.position(c)))?;
        c.at += 1;
        if !self.skipped(&mut skip, passes, c)? {
            self.lex = Lex::Skip(Box::new(skip), passes);
        }
        Ok(())
    }

    fn blank_over(&mut self, object: bool, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        c.copy();
        c.put(b"[]");
        self.pass_over(object, false, c)
    }

    pub(crate) fn skip(
        &mut self,
        mut skip: Box<Skip>,
        passes: bool,
        c: &mut Cursor<'_>,
    ) -> Result<(), MaskError> {
        if !self.skipped(&mut skip, passes, c)? {
            self.lex = Lex::Skip(skip, passes);
        }
        Ok(())
    }

    /// Whether the subtree ends in this chunk.
    fn skipped(&mut self, skip: &mut Skip, passes: bool, c: &mut Cursor<'_>) -> Result<bool, MaskError> {
        let end = skip.skip(c.input, c.at).map_err(|f| fault(f, self.position(c)))?;
        c.at = end.unwrap_or(c.input.len());
        if end.is_some() {
            self.after_dropped(passes, c);
        }
        Ok(end.is_some())
    }

    fn after_dropped(&mut self, passes: bool, c: &mut Cursor<'_>) {
        if !passes {
            c.drop();
        }
        self.after_value();
    }

    pub(crate) fn scalar(
        &mut self,
        mut scalar: Scalar,
        passes: bool,
        c: &mut Cursor<'_>,
    ) -> Result<(), MaskError> {
        while let Some(byte) = c.input.get(c.at).copied() {
            if matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
                if !scalar.is_whole() {
                    return Err(MaskError::Syntax(self.position(c)));
                }
                self.after_dropped(passes, c);
                return Ok(());
            }
            scalar = scalar.step(byte).ok_or_else(|| MaskError::Syntax(self.position(c)))?;
            c.at += 1;
        }
        self.lex = Lex::Scalar(scalar, passes);
        Ok(())
    }

    /// Reads string contents. Some: they end here, the cursor is after the closing quote.
    pub(crate) fn contents(&self, text: &mut InText, c: &mut Cursor<'_>) -> Result<Option<usize>, MaskError> {
        let end = text.skip(c.input, c.at).map_err(|f| fault(f, self.position(c)))?;
        c.at = end.map_or(c.input.len(), |end| end + 1);
        Ok(end)
    }

    pub(crate) fn text(&mut self, mut text: InText, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match self.contents(&mut text, c)? {
            Some(_) => self.after_value(),
            None => self.lex = Lex::Text(text),
        }
        Ok(())
    }

    pub(crate) fn dropped(&mut self, mut text: InText, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match self.contents(&mut text, c)? {
            Some(_) => self.after_dropped(false, c),
            None => self.lex = Lex::Dropped(text),
        }
        Ok(())
    }

    pub(crate) fn named(&mut self, mut text: InText, act: Act, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        let start = c.at;
        let end = self.contents(&mut text, c)?;
        keep(&mut self.token, &c.input[start..end.unwrap_or(c.input.len())], TOKEN_LIMIT);
        if end.is_none() {
            self.lex = Lex::Named(text, act);
            return Ok(());
        }
        let raw = std::mem::take(&mut self.token);
        if raw.len() > TOKEN_LIMIT {
            return self.unexpected("an overlong kind or apiVersion", c);
        }
        let name = unescape(&raw).ok_or_else(|| MaskError::Text(self.position(c)))?;
        self.name_root(act, &name, self.position(c))?;
        self.after_value();
        Ok(())
    }

    pub(crate) fn held(&mut self, mut text: InText, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        let start = c.at;
        let end = self.contents(&mut text, c)?;
        keep(&mut self.held, &c.input[start..end.unwrap_or(c.input.len())], HELD_LIMIT);
        if end.is_none() {
            self.lex = Lex::Held(text);
            return Ok(());
        }
        let raw = std::mem::take(&mut self.held);
        match self.inner(&raw) {
            Some(masked) => {
                c.put(b"\"");
                c.put(&masked);
                c.put(b"\"");
            }
            None => {
                let rule = self.fallback();
                c.put(self.plans.text(rule));
                self.count(rule);
            }
        }
        self.after_dropped(false, c);
        Ok(())
    }

    /// The object inside a last-applied annotation, masked with the same plan; None where that cannot be done (B20).
    fn inner(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        if self.nested || raw.len() > HELD_LIMIT {
            return None;
        }
        let kind = self.kind(self.root_kind()?).clone();
        let json = unescape(raw)?;
        let expectation = Expectation { kind, also: Vec::new(), form: Form::Object, cells: Cells::Keep };
        let mut inner = Masker::new(self.plans.clone(), expectation).ok()?;
        inner.nested = true;
        let mut masked = Vec::with_capacity(json.len());
        inner.push(json.as_bytes(), &mut masked).ok()?;
        inner.finish().ok()?;
        for (sum, count) in self.counts.iter_mut().zip(&inner.counts) {
            *sum += count;
        }
        let mut escaped = Vec::with_capacity(raw.len());
        escape_into(&masked, &mut escaped);
        Some(escaped)
    }
}

/// Appends, but never beyond one byte over the limit, which then says that it was reached.
pub(crate) fn keep(buffer: &mut Vec<u8>, part: &[u8], limit: usize) {
    let room = (limit + 1).saturating_sub(buffer.len());
    buffer.extend_from_slice(&part[..part.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_stops_one_over_the_limit() {
        let mut buffer = Vec::new();
        keep(&mut buffer, b"abcdef", 3);
        keep(&mut buffer, b"gh", 3);
        assert_eq!(buffer, b"abcd");
    }
}
