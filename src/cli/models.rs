//! The flags of the verbs that write, read and steer the model log.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What those verbs take that write to the model log.
#[derive(Debug, Clone, Default, Args)]
pub struct Signing {
    /// The file with the private key (PEM) that the records are signed with; `modelstream keys generate` makes one.
    #[arg(long, value_name = "FILE.key")]
    pub signing_key: Option<PathBuf>,
}

/// What those verbs take that decide about a model.
#[derive(Debug, Clone, Args)]
pub struct Deciding {
    /// Why, for those who read `models history`.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub why: String,
    #[command(flatten)]
    pub signing: Signing,
}

/// `modelstream publish`
#[derive(Debug, Args)]
pub struct Publish {
    /// The file that `train --out` wrote.
    #[arg(value_name = "FILE.model")]
    pub file: PathBuf,
    /// The model's name.
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Claim this version number instead of the next one. The same version with the same bytes is a no-op; with other
    /// bytes it is refused.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub as_version: Option<u64>,
    /// A sentence for the model card.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub note: String,
    #[command(flatten)]
    pub signing: Signing,
}

/// `modelstream models`
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Every model with its versions, and which replica refused one and why.
    List {
        /// Only this model.
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
    /// The model card of a version.
    Show {
        /// The newest version of a model, or the one that is named by its number or an alias.
        #[arg(value_name = "NAME[:VERSION|@ALIAS]")]
        model: String,
    },
    /// Write the artifact of a version to a file.
    Pull {
        /// The newest version of a model, or the one that is named by its number or an alias.
        #[arg(value_name = "NAME[:VERSION|@ALIAS]")]
        model: String,
        /// The file to write [default: NAME-VERSION.model].
        #[arg(long, value_name = "FILE.model")]
        out: Option<PathBuf>,
    },
    /// Put versions through the checks that a serving process makes before it serves them (exit code 7 when one fails).
    Verify {
        /// A version of the model log, or a file.
        #[arg(value_name = "NAME[:VERSION|@ALIAS]|FILE.model")]
        model: String,
    },
    /// Names for versions: `serve --model iris@champion` follows one.
    #[command(subcommand)]
    Alias(Alias),
    /// Hold those that follow the newest version at this one.
    Pin {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The version.
        #[arg(id = "number", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Let those that follow the newest version have it again.
    Unpin {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Give an alias back to the version that it named before.
    Rollback {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The alias.
        #[arg(long, default_value = "champion", value_name = "ALIAS")]
        alias: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Forbid a version: nobody may serve it any more, and those that do fall back at once. For ever.
    Revoke {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The version.
        #[arg(id = "number", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
        /// Why, for those who read `models history`.
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        signing: Signing,
    },
    /// Who published or decided what, when and why.
    History {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
    },
    /// Remove old versions from the model log, but none that an alias or a pin holds.
    Prune {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// How many of the newest versions stay.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Only show what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        deciding: Deciding,
    },
}

/// `modelstream models alias`
#[derive(Debug, Subcommand)]
pub enum Alias {
    /// Let an alias name a version from now on.
    Set {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The alias: `champion`, `challenger`, `staging`.
        #[arg(value_name = "ALIAS")]
        alias: String,
        /// The version.
        #[arg(id = "number", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Take an alias away; whoever follows it stays at the version that it named.
    Delete {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The alias.
        #[arg(value_name = "ALIAS")]
        alias: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Every alias of a model, or of all.
    List {
        /// Only this model.
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
}

/// `modelstream keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key pair: `OUT.key` for those who publish, `OUT.pub` for those who serve.
    Generate {
        /// Where to write it, without the end.
        #[arg(long, default_value = "modelstream", value_name = "OUT")]
        out: PathBuf,
    },
    /// Say what a key is called, as `models list` and `models history` do.
    Show {
        /// A private or a public key.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Tell every process that follows the model log not to believe a key any more, whatever it signed.
    Revoke {
        /// The public key.
        #[arg(value_name = "FILE.pub")]
        file: PathBuf,
        #[command(flatten)]
        deciding: Deciding,
    },
}
