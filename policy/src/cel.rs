//! CEL within fences: an expression is bounded when it is compiled, a document when it is bound, so that no evaluation is long.
//!
//! The library has no budget of its own. What keeps an evaluation short is that loops do not nest, that nothing an expression
//! may call makes a text or list longer than its operands, and that both the expression and what it loops over are small.
//! Whoever evaluates on behalf of a stranger adds a thread and a deadline.

mod check;
mod document;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, ExecutionError, Program, Value};

pub use document::{Document, DocumentError};

/// Longest source, in bytes.
pub const MAX_SOURCE: usize = 4096;
/// Deepest nesting of brackets in a source, and of the tree that it parses into.
pub const MAX_DEPTH: usize = 32;
/// Most nodes of the tree.
pub const MAX_NODES: usize = 1024;
/// Most loops (`all`, `exists`, `exists_one`, `map`, `filter`), none of them within another.
pub const MAX_LOOPS: usize = 8;
/// Most entries of a list or map that is written in an expression.
pub const MAX_ENTRIES: usize = 128;
/// The parser overflows smaller stacks on input that is within the fences.
const STACK: usize = 32 * 1024 * 1024;
const LONGEST_PARSE_ERROR: usize = 200;

static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// An expression that stays within the fences.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Longer than [`MAX_SOURCE`].
    #[error("the expression must be at most {MAX_SOURCE} bytes long")]
    TooLong,
    /// Deeper than [`MAX_DEPTH`].
    #[error("the expression must be nested at most {MAX_DEPTH} deep")]
    TooDeep,
    /// Not CEL; what the parser said.
    #[error("the expression is not CEL: {0}")]
    Syntax(String),
    /// More nodes than [`MAX_NODES`].
    #[error("the expression must have at most {MAX_NODES} parts")]
    TooLarge,
    /// More than [`MAX_ENTRIES`].
    #[error("a list or map in the expression must have at most {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// More than [`MAX_LOOPS`].
    #[error("the expression must have at most {MAX_LOOPS} loops such as `exists`")]
    TooManyLoops,
    /// A loop within a loop.
    #[error("a loop such as `exists` must not stand within another one")]
    NestedLoops,
    /// Longer texts or lists in every round of a loop.
    #[error("`+` must not stand within a loop such as `exists`")]
    Growth,
    /// A name that is nothing here.
    #[error("undeclared reference to `{0}`")]
    Undeclared(String),
    /// A function that is not offered.
    #[error("function `{0}` is not offered")]
    Function(String),
    /// A construct that is not offered.
    #[error("{0} is not offered")]
    NotOffered(&'static str),
    /// A pattern that is computed, or no small regular expression.
    #[error("the pattern of `matches` must be a literal, small and valid regular expression")]
    Pattern,
    /// The library failed.
    #[error("the expression cannot be compiled")]
    Failed,
}

/// Why an expression has no answer. Nothing of the document is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A key that is not there; `has()` asks first.
    #[error("the document has no such key")]
    NoSuchKey,
    /// True or false was wanted.
    #[error("the answer is neither true nor false")]
    NotBoolean,
    /// Anything else: wrong types, division by zero.
    #[error("the expression cannot be evaluated")]
    Failed,
}

impl Expression {
    /// Compiles a source that may use the `variables`, on a thread of its own with a stack that is deep enough.
    ///
    /// # Errors
    /// [`CompileError`]: not CEL, or outside the fences.
    pub fn compile(source: &str, variables: &[&str]) -> Result<Expression, CompileError> {
        if source.len() > MAX_SOURCE {
            return Err(CompileError::TooLong);
        }
        if brackets(source) > MAX_DEPTH {
            return Err(CompileError::TooDeep);
        }
        let compile = || {
            let program = catch_unwind(AssertUnwindSafe(|| ENVIRONMENT.compile(source)))
                .map_err(|_| CompileError::Failed)?
                .map_err(|errors| CompileError::Syntax(first_line(&errors.to_string())))?;
            check::check(program.expression(), variables)?;
            Ok(program)
        };
        let program = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK);
            let thread = builder.spawn_scoped(scope, compile).map_err(|_| CompileError::Failed)?;
            thread.join().map_err(|_| CompileError::Failed)?
        })?;
        Ok(Expression { source: source.into(), program: Arc::new(program) })
    }

    /// The text that it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is true of `document`, under the name that it was compiled with.
    ///
    /// # Errors
    /// [`EvaluateError`]; whoever asked whether something is allowed reads that as no.
    pub fn holds(&self, variable: &str, document: &Document) -> Result<bool, EvaluateError> {
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
            context.add_variable_from_value(variable, document.value());
            self.program.execute(&context)
        };
        let answer = catch_unwind(AssertUnwindSafe(evaluate)).map_err(|_| EvaluateError::Failed)?;
        match answer {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err(EvaluateError::NotBoolean),
            Err(ExecutionError::NoSuchKey(_)) => Err(EvaluateError::NoSuchKey),
            Err(_) => Err(EvaluateError::Failed),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

// Brackets within texts count too: an expression that needs more of them is not one for people to read.
fn brackets(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth = depth.saturating_add(1),
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(LONGEST_PARSE_ERROR).collect()
}
