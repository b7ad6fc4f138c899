//! Walks a parsed expression and refuses what could be long, large or unknown.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{CompileError, MAX_DEPTH, MAX_ENTRIES, MAX_LOOPS, MAX_NODES};

const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];
/// None of them answers with more than it was asked about.
const FUNCTIONS: [&str; 13] = [
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "bool",
    "double",
    "int",
    "string",
    "type",
    "uint",
    MATCHES,
];
const MATCHES: &str = "matches";
/// Compiled form of a pattern, in bytes.
const LARGEST_PATTERN: usize = 64 * 1024;

/// Whether the tree stays within the fences.
pub(super) fn check(expression: &IdedExpr, variables: &[&str]) -> Result<(), CompileError> {
    Walk { variables, bound: Vec::new(), nodes: 0, loops: 0, accumulator: None }.expression(expression, 0)
}

struct Walk<'a> {
    variables: &'a [&'a str],
    /// Names that the enclosing loop gives.
    bound: Vec<&'a str>,
    nodes: usize,
    loops: usize,
    /// What the enclosing loop gathers in, while the walk is in its body.
    accumulator: Option<&'a str>,
}

impl<'a> Walk<'a> {
    fn expression(&mut self, expression: &'a IdedExpr, depth: usize) -> Result<(), CompileError> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            return Err(CompileError::TooLarge);
        }
        // A loop takes several levels of the tree for one of the source.
        if depth > MAX_DEPTH.saturating_mul(2) {
            return Err(CompileError::TooDeep);
        }
        let deeper = depth.saturating_add(1);
        match &expression.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.expression(&select.operand, deeper),
            Expr::Call(call) => self.call(call, deeper),
            Expr::Comprehension(comprehension) => self.repeated(comprehension, deeper),
            Expr::List(list) => {
                self.entries(list.elements.len())?;
                list.elements.iter().try_for_each(|element| self.expression(element, deeper))
            }
            Expr::Map(map) => {
                self.entries(map.entries.len())?;
                map.entries.iter().try_for_each(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => {
                        self.expression(&entry.key, deeper)?;
                        self.expression(&entry.value, deeper)
                    }
                    EntryExpr::StructField(_) => Err(CompileError::NotOffered("a message")),
                })
            }
            Expr::Struct(_) => Err(CompileError::NotOffered("a message")),
            Expr::Unspecified => Err(CompileError::Failed),
        }
    }

    fn entries(&self, count: usize) -> Result<(), CompileError> {
        if count > MAX_ENTRIES { Err(CompileError::TooManyEntries) } else { Ok(()) }
    }

    fn name(&self, name: &str) -> Result<(), CompileError> {
        if self.variables.contains(&name) || self.bound.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        Err(CompileError::Undeclared(name.to_owned()))
    }

    fn call(&mut self, call: &'a CallExpr, depth: usize) -> Result<(), CompileError> {
        let name = call.func_name.as_str();
        if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
            return Err(CompileError::Function(name.to_owned()));
        }
        if name == operators::ADD && self.accumulator.is_some() && !self.gathers(call) {
            return Err(CompileError::Growth);
        }
        if name == MATCHES {
            pattern(call)?;
        }
        if let Some(target) = &call.target {
            self.expression(target, depth)?;
        }
        call.args.iter().try_for_each(|argument| self.expression(argument, depth))
    }

    /// Whether it is the loop's own `gathered + [one]`.
    fn gathers(&self, call: &CallExpr) -> bool {
        let own = |expression: &IdedExpr| matches!(&expression.expr, Expr::Ident(name) if Some(name.as_str()) == self.accumulator);
        call.args.first().is_some_and(own)
    }

    fn repeated(&mut self, one: &'a ComprehensionExpr, depth: usize) -> Result<(), CompileError> {
        if self.accumulator.is_some() {
            return Err(CompileError::NestedLoops);
        }
        self.loops = self.loops.saturating_add(1);
        if self.loops > MAX_LOOPS {
            return Err(CompileError::TooManyLoops);
        }
        // A variable of the caller's keeps its meaning everywhere.
        if self.variables.contains(&one.iter_var.as_str()) {
            return Err(CompileError::NotOffered("a loop variable with the name of a declared one"));
        }
        self.expression(&one.iter_range, depth)?;
        self.expression(&one.accu_init, depth)?;
        self.bound = vec![&one.iter_var, &one.accu_var];
        self.accumulator = Some(&one.accu_var);
        for part in [&one.loop_cond, &one.loop_step, &one.result] {
            self.expression(part, depth)?;
        }
        self.bound.clear();
        self.accumulator = None;
        Ok(())
    }
}

fn pattern(call: &CallExpr) -> Result<(), CompileError> {
    let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(pattern)), .. }) = call.args.last() else {
        return Err(CompileError::Pattern);
    };
    let builder = |text: &str| regex::RegexBuilder::new(text).size_limit(LARGEST_PATTERN).build();
    builder(pattern.inner()).map(|_| ()).map_err(|_| CompileError::Pattern)
}
