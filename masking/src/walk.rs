//! The state machine: what each byte means where it stands.

use crate::masker::{Act, Cursor, Frame, Lex, MaskError, Masker, TOKEN_LIMIT};
use crate::plan::{Plan, Step};
use crate::scan::{InText, MAX_DEPTH};
use crate::shape::{Cells, Form, KindId, Root, Shape};
use crate::text::unescape;
use crate::value::keep;

impl Masker {
    /// Reads a chunk to its end.
    pub(crate) fn read(&mut self, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        while c.at < c.input.len() {
            match std::mem::replace(&mut self.lex, Lex::Between) {
                Lex::Key(text) => self.key(text, c)?,
                Lex::Text(text) => self.text(text, c)?,
                Lex::Dropped(text) => self.dropped(text, c)?,
                Lex::Named(text, act) => self.named(text, act, c)?,
                Lex::Held(text) => self.held(text, c)?,
                Lex::Scalar(scalar, passes) => self.scalar(scalar, passes, c)?,
                Lex::Skip(skip, passes) => self.skip(skip, passes, c)?,
                between_tokens @ (Lex::Between
                | Lex::Value(_)
                | Lex::FirstKey
                | Lex::NextKey
                | Lex::Colon(_)
                | Lex::FirstElement
                | Lex::After) => {
                    while matches!(c.input.get(c.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
                        c.at += 1;
                    }
                    let Some(byte) = c.input.get(c.at).copied() else {
                        self.lex = between_tokens;
                        return Ok(());
                    };
                    self.token(between_tokens, byte, c)?;
                }
            }
        }
        Ok(())
    }

    /// The first byte of a token.
    fn token(&mut self, lex: Lex, byte: u8, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        match (lex, byte) {
            (Lex::Value(act), byte) => self.value(act, byte, c),
            (Lex::FirstKey | Lex::NextKey, b'"') => {
                c.at += 1;
                self.token.clear();
                self.key(InText::default(), c)
            }
            (Lex::FirstKey, b'}') | (Lex::FirstElement, b']') => self.close(byte, c),
            (Lex::Colon(act), b':') => {
                c.at += 1;
                self.lex = Lex::Value(act);
                Ok(())
            }
            (Lex::FirstElement, byte) => {
                let act = self.element(c)?;
                self.value(act, byte, c)
            }
            (Lex::After, b',') => {
                c.at += 1;
                self.lex = if self.in_list() { Lex::Value(self.element(c)?) } else { Lex::NextKey };
                Ok(())
            }
            (Lex::After, b'}' | b']') => self.close(byte, c),
            (Lex::Between, byte) => self.document(byte, c),
            _ => Err(MaskError::Syntax(self.position(c))),
        }
    }

    pub(crate) fn position(&self, c: &Cursor<'_>) -> u64 {
        self.offset + c.at as u64
    }

    pub(crate) fn unexpected<T>(&self, what: &'static str, c: &Cursor<'_>) -> Result<T, MaskError> {
        Err(MaskError::Unexpected { what, at: self.position(c) })
    }

    fn document(&mut self, byte: u8, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        if self.expectation().form != Form::Watch && self.documents > 0 {
            return self.unexpected("a second document", c);
        }
        self.documents += 1;
        self.value(Act::Document, byte, c)
    }

    fn in_list(&self) -> bool {
        match self.stack.last() {
            Some(
                Frame::Elements(_)
                | Frame::MaskedElements(_)
                | Frame::Items(_)
                | Frame::Rows
                | Frame::Cells(..),
            ) => true,
            Some(Frame::Event | Frame::Root | Frame::Members(_) | Frame::MaskedMembers(_) | Frame::Row)
            | None => false,
        }
    }

    /// What happens to the next element of the innermost list.
    fn element(&mut self, c: &Cursor<'_>) -> Result<Act, MaskError> {
        Ok(match self.stack.last_mut() {
            Some(Frame::Elements(node)) => {
                let node = *node;
                self.act(self.root_plan().map_or(Step::Copy, |plan| plan.node(node).items))
            }
            Some(Frame::MaskedElements(rule)) => Act::Mask(*rule),
            Some(Frame::Items(kind)) => Act::Item(*kind),
            Some(Frame::Rows) => Act::Row,
            Some(Frame::Cells(rule, named)) => {
                if std::mem::replace(named, true) {
                    Act::Mask(*rule)
                } else {
                    Act::Copy
                }
            }
            Some(Frame::Event | Frame::Root | Frame::Members(_) | Frame::MaskedMembers(_) | Frame::Row)
            | None => {
                return Err(MaskError::Syntax(self.position(c)));
            }
        })
    }

    fn act(&self, step: Step) -> Act {
        match step {
            Step::Copy => Act::Copy,
            Step::Into(node) => Act::Into(node),
            Step::Blank => Act::Blank,
            Step::LastApplied => Act::LastApplied,
        }
    }

    /// The kind of the innermost root, once its shape is decided.
    pub(crate) fn root_kind(&self) -> Option<KindId> {
        match self.roots.last()?.shape? {
            Shape::Object(kind) => Some(kind),
            Shape::List(_) | Shape::Table => None,
        }
    }

    pub(crate) fn root_plan(&self) -> Option<&Plan> {
        self.root_kind().and_then(|kind| self.plan(kind))
    }

    /// What happens to the member of this raw key.
    fn member(&mut self, raw: &[u8], c: &Cursor<'_>) -> Result<Act, MaskError> {
        let decoded;
        let key = if memchr::memchr(b'\\', raw).is_none() {
            raw
        } else {
            decoded = unescape(raw).ok_or_else(|| MaskError::Text(self.position(c)))?;
            decoded.as_bytes()
        };
        match self.stack.last() {
            Some(Frame::Members(node)) => {
                Ok(self.act(self.root_plan().map_or(Step::Copy, |plan| plan.node(*node).member(key))))
            }
            Some(Frame::MaskedMembers(rule)) => Ok(Act::Mask(*rule)),
            Some(Frame::Root) => self.root_member(key, c),
            Some(Frame::Event) => match key {
                b"type" => Ok(Act::Copy),
                b"object" => Ok(Act::Embedded { whole: true }),
                _ => self.unexpected("an unknown member of a watch event", c),
            },
            Some(Frame::Row) => match key {
                b"object" => Ok(Act::Embedded { whole: false }),
                b"cells" => Ok(self.cells()),
                b"conditions" => Ok(Act::Copy),
                _ => self.unexpected("an unknown member of a table row", c),
            },
            Some(
                Frame::Elements(_)
                | Frame::MaskedElements(_)
                | Frame::Items(_)
                | Frame::Rows
                | Frame::Cells(..),
            )
            | None => Err(MaskError::Syntax(self.position(c))),
        }
    }

    fn root_member(&mut self, key: &[u8], c: &Cursor<'_>) -> Result<Act, MaskError> {
        match key {
            b"kind" => return Ok(Act::Kind),
            b"apiVersion" => return Ok(Act::ApiVersion),
            _ => {}
        }
        match (self.shape()?, key) {
            (Some(Shape::Object(kind)), key) => {
                Ok(self.act(self.plan(kind).map_or(Step::Copy, |plan| plan.node(Plan::ROOT).member(key))))
            }
            (Some(Shape::List(kind)), b"items") => Ok(Act::Items(kind)),
            (Some(Shape::Table), b"rows") => Ok(Act::Rows),
            (Some(Shape::List(_)), b"metadata")
            | (Some(Shape::Table), b"metadata" | b"columnDefinitions") => Ok(Act::Copy),
            (Some(Shape::List(_) | Shape::Table) | None, _) => {
                self.unexpected("an unknown member of a list or table", c)
            }
        }
    }

    fn cells(&self) -> Act {
        match (self.expectation().cells, self.plan(Self::EXPECTED)) {
            (Cells::MaskAfterFirst, Some(plan)) => Act::Cells(plan.first),
            (Cells::MaskAfterFirst, None) | (Cells::Keep, _) => Act::Copy,
        }
    }

    pub(crate) fn enter(&mut self, frame: Frame, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(MaskError::Depth(self.position(c)));
        }
        self.stack.push(frame);
        c.at += 1;
        self.lex = if self.in_list() { Lex::FirstElement } else { Lex::FirstKey };
        Ok(())
    }

    pub(crate) fn enter_root(
        &mut self,
        kind: KindId,
        form: Form,
        named: bool,
        c: &mut Cursor<'_>,
    ) -> Result<(), MaskError> {
        self.roots.push(Root::new(kind, form, named));
        self.enter(Frame::Root, c)
    }

    /// A closing bracket of something that was looked into.
    fn close(&mut self, byte: u8, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        if self.in_list() != (byte == b']') {
            return Err(MaskError::Syntax(self.position(c)));
        }
        if self.stack.pop() == Some(Frame::Root)
            && self.roots.pop().is_some_and(|root| root.must_name_kind && root.kind.is_none())
        {
            return self.unexpected("an object without a kind", c);
        }
        c.at += 1;
        self.after_value();
        Ok(())
    }

    pub(crate) fn after_value(&mut self) {
        self.lex = if self.stack.is_empty() { Lex::Between } else { Lex::After };
    }

    fn key(&mut self, mut text: InText, c: &mut Cursor<'_>) -> Result<(), MaskError> {
        let start = c.at;
        let end = self.contents(&mut text, c)?;
        let part = &c.input[start..end.unwrap_or(c.input.len())];
        if end.is_some() && self.token.is_empty() && part.len() <= TOKEN_LIMIT {
            self.lex = Lex::Colon(self.member(part, c)?);
            return Ok(());
        }
        keep(&mut self.token, part, TOKEN_LIMIT);
        if end.is_none() {
            self.lex = Lex::Key(text);
            return Ok(());
        }
        let raw = std::mem::take(&mut self.token);
        // A key over the limit is longer than any that a plan can name: what stands for it matches the same steps.
        let act = if raw.len() > TOKEN_LIMIT { self.member(OVERLONG, c) } else { self.member(&raw, c) };
        self.lex = Lex::Colon(act?);
        Ok(())
    }
}

/// Stands for every key over [`TOKEN_LIMIT`]; no plan can name it, for it has a control character.
const OVERLONG: &[u8] = b"\\u0000";
