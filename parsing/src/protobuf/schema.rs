//! The table of messages and fields, read once from `schema.txt` (B103).

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Generated from the Go types that Kubernetes' own clients use; see `parsing/schema`.
const TEXT: &str = include_str!("schema.txt");

/// The table. Were its text not whole, it would be empty, and everything refused; a test reads it.
pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| read(TEXT).unwrap_or_default());

/// Most fields of one message: as many as a set of those that were seen can hold.
const MOST_FIELDS: usize = 128;

/// All kinds and messages.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    kinds: BTreeMap<(&'static str, &'static str), MessageId>,
    messages: Vec<Message>,
    /// `JSONSchemaProps`, which stands in types that have a form of their own.
    props: MessageId,
}

/// Which message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageId(usize);

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    /// As in `core/v1.Pod`.
    pub name: &'static str,
    /// In the order of the Go type.
    pub fields: Vec<Field>,
    /// By the number on the wire.
    numbers: BTreeMap<u32, usize>,
    /// By the key in JSON, those of inline messages among them.
    keys: BTreeMap<&'static str, Place>,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// On the wire; 0 if it is not sent there.
    pub number: u32,
    /// The key in JSON.
    pub key: &'static str,
    /// Its fields stand in the parent in JSON.
    pub inline: bool,
    /// What it holds.
    pub place: Place,
}

/// What stands somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// How often.
    pub often: Often,
    /// Of which type.
    pub kind: Type,
}

/// How often a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Often {
    /// Once: absent and zero are one.
    Once,
    /// Once or not at all: absent and zero are two.
    Maybe,
    /// A list.
    List,
    /// A map with texts as keys.
    Map,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// `string`
    Text,
    /// `bool`
    Bool,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `float64`
    Double,
    /// `[]byte`, base64 in JSON.
    Bytes,
    /// `Time`, RFC 3339 in whole seconds.
    Time,
    /// `MicroTime`, RFC 3339 with six digits.
    MicroTime,
    /// `Quantity`, a text.
    Quantity,
    /// A number or a text.
    IntOrString,
    /// Any JSON: `RawExtension`, `FieldsV1`, `JSON`.
    Json,
    /// A list of texts that is a message of its own.
    Texts,
    /// `JSONSchemaPropsOrBool`
    SchemaOrBool,
    /// `JSONSchemaPropsOrArray`
    SchemaOrArray,
    /// `JSONSchemaPropsOrStringArray`
    SchemaOrTexts,
    /// An object with fields of its own.
    Message(MessageId),
}

impl Schema {
    /// The message of a kind.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<MessageId> {
        self.kinds.get(&(api_version, kind)).copied()
    }

    /// The message of an id.
    pub fn message(&self, id: MessageId) -> Option<&Message> {
        self.messages.get(id.0)
    }

    /// `JSONSchemaProps`
    pub const fn props(&self) -> MessageId {
        self.props
    }
}

impl Message {
    /// The field with this number on the wire, and where it stands among the fields.
    pub fn number(&self, number: u32) -> Option<(usize, &Field)> {
        let at = *self.numbers.get(&number)?;
        Some((at, self.fields.get(at)?))
    }

    /// What stands under this key in JSON.
    pub fn key(&self, key: &str) -> Option<Place> {
        self.keys.get(key).copied()
    }
}

fn read(text: &'static str) -> Option<Schema> {
    let mut ids = BTreeMap::new();
    for name in text.lines().filter_map(|line| line.strip_prefix("message ")) {
        ids.insert(name, MessageId(ids.len()));
    }
    let mut schema = Schema { props: *ids.get(PROPS)?, ..Schema::default() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split(' ').collect();
        match *words.as_slice() {
            ["kind", api_version, kind, message] => {
                schema.kinds.insert((api_version, kind), *ids.get(message)?);
            }
            ["message", name] => schema.messages.push(Message {
                name,
                fields: Vec::new(),
                numbers: BTreeMap::new(),
                keys: BTreeMap::new(),
            }),
            [number, key, often, kind] => {
                let field = field(number.parse().ok()?, key, often, kind, &ids)?;
                schema.messages.last_mut()?.add(field)?;
            }
            _ => return None,
        }
    }
    for id in 0..schema.messages.len() {
        let keys = schema.keys(id, 0)?;
        schema.messages.get_mut(id)?.keys = keys;
    }
    Some(schema)
}

const PROPS: &str = "apiextensions/v1.JSONSchemaProps";

impl Message {
    fn add(&mut self, field: Field) -> Option<()> {
        let at = self.fields.len();
        if at >= MOST_FIELDS || (field.number > 0 && self.numbers.insert(field.number, at).is_some()) {
            return None;
        }
        self.fields.push(field);
        Some(())
    }
}

impl Schema {
    /// The keys of a message in JSON; none if one stands twice.
    fn keys(&self, id: usize, depth: usize) -> Option<BTreeMap<&'static str, Place>> {
        let mut keys = BTreeMap::new();
        for field in &self.messages.get(id)?.fields {
            match (field.inline, field.place.kind) {
                (true, Type::Message(inner)) if depth < 4 => {
                    for (key, place) in self.keys(inner.0, depth + 1)? {
                        keys.insert(key, place).is_none().then_some(())?;
                    }
                }
                (true, _) => return None,
                (false, _) => keys.insert(field.key, field.place).is_none().then_some(())?,
            }
        }
        Some(keys)
    }
}

fn field(
    number: u32,
    key: &'static str,
    often: &str,
    kind: &str,
    ids: &BTreeMap<&'static str, MessageId>,
) -> Option<Field> {
    let often = match often {
        "." => Often::Once,
        "?" => Often::Maybe,
        "*" => Often::List,
        "%" => Often::Map,
        _ => return None,
    };
    let kind = match kind {
        "string" => Type::Text,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        "json" => Type::Json,
        "texts" => Type::Texts,
        "schemaorbool" => Type::SchemaOrBool,
        "schemaorarray" => Type::SchemaOrArray,
        "schemaortexts" => Type::SchemaOrTexts,
        message => Type::Message(*ids.get(message)?),
    };
    Some(Field { number, key, inline: key == "-", place: Place { often, kind } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let schema = read(TEXT).expect("every line is read");
        assert!(schema.kinds.len() > 140, "{}", schema.kinds.len());
        let pod = schema.message(schema.kind("v1", "Pod").expect("a kind")).expect("a message");
        assert_eq!(pod.name, "core/v1.Pod");
        assert_eq!(schema.message(schema.props()).map(|props| props.name), Some(PROPS));
        // A volume's source stands in the volume.
        let volume = schema.messages.iter().find(|message| message.name == "core/v1.Volume").expect("there");
        assert!(volume.key("hostPath").is_some() && volume.key("volumeSource").is_none());
    }

    #[test]
    fn a_broken_table_is_none() {
        for text in ["", "message a\n", "message apiextensions/v1.JSONSchemaProps\n1 a . b/c\n"] {
            assert!(read(text).is_none(), "{text}");
        }
        let twice = "message apiextensions/v1.JSONSchemaProps\n1 a . string\n2 a . string\n";
        assert!(read(twice).is_none());
    }
}
