//! `modelstream pass-through`: what `bench --raw` measures, in a process of its own so that its CPU time is known.

use crate::cli;
use crate::config::{self, ConfigError};
use crate::kafka;
use crate::kafka::admin::Admin;
use crate::kafka::passthrough::{Labels, PassThrough};
use crate::model::artifact::Digest;
use crate::serve::output::headers;
use crate::shutdown::{self, Stop};

use super::{Error, print};

/// Copies until a signal.
///
/// # Errors
/// When a topic is not there, or cannot be read or written.
pub fn run(common: &cli::Common, pass_through: &cli::PassThrough) -> Result<(), Error> {
    let cli::PassThrough { input, output, group, headers } = pass_through;
    if input == output {
        let rule = "--input and --output are the same topic: each copy would be copied again; name another";
        return Err(ConfigError::Relation(rule.to_owned()).into());
    }
    let connection = config::connection(common)?;
    let admin = Admin::new(&connection)?;
    for topic in [input, output] {
        if admin.partitions(topic)?.is_none() {
            return Err(kafka::Error::NoTopic { doing: format!("copying {input} to {output}") }.into());
        }
    }
    let runtime = super::serve::runtime()?;
    let stop = Stop::new();
    shutdown::on_signals(runtime.handle(), stop.clone())
        .map_err(|source| Error::Io { doing: "catching signals".to_owned(), source })?;
    let group = group.clone().unwrap_or_else(|| format!("modelstream.pass-through.{input}"));
    let labels = headers.then(|| labels(input));
    let copied = PassThrough::new(&connection, &group, input, output, labels)?.run(|| stop.is_set());
    runtime.shutdown_background();
    print::say(&format!("{} records from {input} to {output}", copied?));
    Ok(())
}

/// The headers that predictions have, of version 1 of a model that there is not.
fn labels(input: &str) -> Labels {
    let constant = [
        (headers::MODEL, "none".to_owned()),
        (headers::VERSION, "1".to_owned()),
        (headers::DIGEST, Digest::of(b"").to_string()),
        (headers::SOURCE_TOPIC, input.to_owned()),
    ];
    Labels { constant: constant.into(), partition: headers::SOURCE_PARTITION, offset: headers::SOURCE_OFFSET }
}
