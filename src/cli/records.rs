//! The flags of the verbs that read and write records themselves.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

/// `modelstream predict`
#[derive(Debug, Args)]
pub struct Predict {
    /// A CSV file with a header, or JSON lines (by the name's end or `--format`); `-` reads stdin.
    #[arg(value_name = "DATA.csv|DATA.jsonl|-")]
    pub data: PathBuf,
    /// Score with this file.
    #[arg(long, value_name = "FILE.model", conflicts_with = "model", required_unless_present = "model")]
    pub artifact: Option<PathBuf>,
    /// Score with a version from the model log.
    #[arg(long, value_name = "NAME[:VERSION|@ALIAS]")]
    pub model: Option<String>,
    /// What the data is [default: by the file name's end; csv for stdin].
    #[arg(long, value_parser = PossibleValuesParser::new(["csv", "jsonl"]))]
    pub format: Option<String>,
    /// The field of a JSON line under which the features stand, where they are nested.
    #[arg(long, value_name = "NAME")]
    pub features_field: Option<String>,
}

/// `modelstream produce`
#[derive(Debug, Args)]
pub struct Produce {
    /// A CSV file with a header, or JSON lines; `-` reads stdin.
    #[arg(value_name = "DATA.csv|DATA.jsonl|-")]
    pub data: PathBuf,
    /// The topic to send to.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// What the data is [default: by the file name's end; csv for stdin].
    #[arg(long, value_parser = PossibleValuesParser::new(["csv", "jsonl"]))]
    pub data_format: Option<String>,
    /// How the records are written.
    #[arg(long, default_value = "json", value_parser = PossibleValuesParser::new(["json", "avro"]))]
    pub format: String,
    /// The Avro schema file of the records (with `--format avro`).
    #[arg(long, value_name = "FILE.avsc")]
    pub schema: Option<PathBuf>,
    /// The column whose value becomes the record's key; it stays in the record.
    #[arg(long, value_name = "COLUMN")]
    pub key_column: Option<String>,
    /// Columns to leave out, comma-separated: the label, for example.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub drop: Vec<String>,
    /// Records per second; as fast as it goes when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Send the data this many times; 0 for ever.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub repeat: u64,
}

/// `modelstream tail`
#[derive(Debug, Args)]
pub struct Tail {
    /// The topic to read, with read_committed.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Start at the beginning, not at the end.
    #[arg(long)]
    pub from_beginning: bool,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
    /// Stop when there is nothing more to read.
    #[arg(long)]
    pub exit_at_end: bool,
}
