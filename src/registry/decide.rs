//! Decide about a model's versions: each decision is one record of the model log, behind all that were made before.

use crate::kafka::Connection;
use crate::model::Control;
use crate::model::control::{Decision, FORMAT};

use super::publish::now_ms;
use super::record::{control_key, revocation_key};
use super::selector::is_model_name;
use super::state::{Entry, State};
use super::trust::KeyId;
use super::writer::{Author, WRITE_TIMEOUT, Writer};
use super::{Error, Topics};

/// The alias that `models rollback` speaks of when none is named.
pub const CHAMPION: &str = "champion";
/// The transactional id's part for what is about no single model; no model can have this name.
const ALL_MODELS: &str = "*";

/// What somebody wants to have decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The alias is to name the version.
    SetAlias(String, u64),
    /// The alias is to name nothing.
    DeleteAlias(String),
    /// The alias is to name what it named before.
    RollBack(String),
    /// Who follows the newest version is to stay at this one.
    Pin(u64),
    /// Who follows the newest version is to have it.
    Unpin,
    /// Nobody is to serve the version.
    Revoke(u64),
}

/// Writes the decision that grants `wish`; what was written.
///
/// # Errors
/// [`Error::Wish`] when it cannot be granted as things stand; [`Error::Outrun`] when somebody else decided about this model
/// meanwhile; when the model log cannot be read or written.
pub fn decide(
    connection: &Connection,
    topics: &Topics,
    author: &Author,
    model: &str,
    wish: &Wish,
    why: &str,
) -> Result<Control, Error> {
    if !is_model_name(model) {
        return Err(Error::BadName(model.to_owned()));
    }
    let (writer, state) = Writer::take_over(connection, topics, author, model, WRITE_TIMEOUT)?;
    let decision = grant(&state, model, wish)?;
    let control = control(model, state.next_sequence(model), author, decision, why);
    writer.transact(|| put(&writer, &control))?;
    Ok(control)
}

/// Writes that a signing key is not trusted any more, whatever it signed.
///
/// # Errors
/// As [`decide`].
pub fn revoke_key(
    connection: &Connection,
    topics: &Topics,
    author: &Author,
    key: &KeyId,
    why: &str,
) -> Result<Control, Error> {
    let (writer, _) = Writer::take_over(connection, topics, author, ALL_MODELS, WRITE_TIMEOUT)?;
    let control = control("", 0, author, Decision::KeyRevoked { key: key.to_string() }, why);
    writer.transact(|| {
        let value = control.encode().map_err(Error::Control)?;
        writer.put(&revocation_key(key), Some(&value))
    })?;
    Ok(control)
}

/// A decision that is made now.
pub(super) fn control(model: &str, sequence: u64, author: &Author, decision: Decision, why: &str) -> Control {
    Control {
        format: FORMAT,
        model: model.to_owned(),
        sequence,
        decision,
        decided_at_ms: now_ms(),
        decided_by: author.name.clone(),
        why: why.to_owned(),
    }
}

pub(super) fn put(writer: &Writer<'_>, control: &Control) -> Result<(), Error> {
    let value = control.encode().map_err(Error::Control)?;
    writer.put(&control_key(&control.model, control.sequence), Some(&value))
}

/// The decision that grants a wish as things stand.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::Wish`].
fn grant(state: &State, model: &str, wish: &Wish) -> Result<Decision, Error> {
    let steering = state.steering(model);
    let refuse = |why: String| Err(Error::Wish(why));
    let good = |version: u64| match state.versions(model).and_then(|versions| versions.get(&version)) {
        Some(Entry::Manifest(_)) if steering.revoked.contains_key(&version) => {
            Err(Error::Wish(format!("version {version} of {model} is revoked: {}", steering.revoked[&version])))
        }
        Some(Entry::Manifest(_)) => Ok(version),
        Some(Entry::Refused(refusal)) => {
            Err(Error::Refused { model: model.to_owned(), version, refusal: refusal.clone() })
        }
        None => Err(Error::NotFound(format!("{model} has no version {version}; `modelstream models list` shows them"))),
    };
    let named = |alias: &str| match steering.alias(alias) {
        Some(version) => Ok(version),
        None => {
            Err(Error::NotFound(format!("{model} has no alias {alias}; `modelstream models alias list` shows them")))
        }
    };
    match wish {
        Wish::SetAlias(alias, _) if !is_model_name(alias) => Err(Error::BadName(alias.clone())),
        Wish::SetAlias(alias, version) if steering.alias(alias) == Some(*version) => {
            refuse(format!("{model}@{alias} is version {version} already"))
        }
        Wish::SetAlias(alias, version) => Ok(Decision::AliasSet { alias: alias.clone(), version: good(*version)? }),
        Wish::DeleteAlias(alias) => named(alias).map(|_| Decision::AliasDeleted { alias: alias.clone() }),
        Wish::RollBack(alias) => {
            let present = named(alias)?;
            let Some(former) = steering.former(alias) else {
                return refuse(format!(
                    "{model}@{alias} has named no other version than {present} that may be served; \
                     `modelstream models pin {model} N` holds those that follow the newest one"
                ));
            };
            Ok(Decision::RolledBack { alias: alias.clone(), version: good(former)? })
        }
        Wish::Pin(version) if steering.pin == Some(*version) => {
            refuse(format!("{model} is pinned to version {version} already"))
        }
        Wish::Pin(version) => Ok(Decision::Pinned { version: good(*version)? }),
        Wish::Unpin if steering.pin.is_none() => refuse(format!("{model} is not pinned")),
        Wish::Unpin => Ok(Decision::Unpinned),
        Wish::Revoke(version) => Ok(Decision::Revoked { version: good(*version)? }),
    }
}
