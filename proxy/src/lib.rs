//! The hands on the wire: a request climbs from `accept` to `record`, each stage consuming the type of the one before.

pub mod accept;
pub mod admin;
pub mod answer;
pub mod authenticate;
pub mod budget;
pub mod config;
pub mod decide;
pub mod denials;
pub mod discovery;
pub mod drain;
pub mod forward;
pub mod grants;
pub mod hold;
pub mod limits;
pub mod live;
pub mod mask;
pub mod parse;
pub mod record;
pub mod refuse;
pub mod request_id;
pub mod run;
pub mod serve;
pub mod streams;
pub mod telemetry;
pub mod token;
pub mod upstream;
