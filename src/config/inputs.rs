//! Which models `modelstream serve` serves, and which of them each input topic's records are for.

use std::collections::BTreeSet;

use crate::cli;
use crate::pipeline::{InputFormat, Route, WordField};
use crate::registry::Selector;
use crate::serve::output::HEADER_PREFIX;

use super::{ConfigError, selector};

/// An input topic, and the models that score its records.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) topic: String,
    pub(super) models: Vec<String>,
}

/// What `--route` says.
enum Routing<'a> {
    Header(&'a str),
    Field(&'a str),
    Topic,
}

impl Input {
    /// The consumer group where none is named. It never depends on which other models an input with several has: a group of another
    /// name would begin at the beginning.
    pub(super) fn group(&self) -> String {
        match self.models.as_slice() {
            [model] => format!("modelstream.{model}.{}", self.topic),
            _ => format!("modelstream.{}", self.topic),
        }
    }
}

/// The models, each of another name.
pub(super) fn models(serve: &cli::Serve) -> Result<Vec<Selector>, ConfigError> {
    let models: Vec<Selector> = serve.model.iter().map(|text| selector(text)).collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    match models.iter().find(|selector| !names.insert(selector.model.as_str())) {
        Some(twice) => {
            rule(format!("--model {twice}: {} stands there twice; a process serves one version of it", twice.model))
        }
        None => Ok(models),
    }
}

/// The inputs, each of another topic, and what tells a record's model within an input.
pub(super) fn inputs(
    serve: &cli::Serve,
    models: &[Selector],
    format: &InputFormat,
) -> Result<(Vec<Input>, Option<Route>), ConfigError> {
    let names: Vec<&str> = models.iter().map(|selector| selector.model.as_str()).collect();
    let routing = serve.route.as_deref().map(routing).transpose()?;
    let route = match routing {
        None if names.len() > 1 => {
            return rule(format!(
                "--model {}: with several models --route says which record is for which: header:NAME, field:NAME or topic",
                names.join(", ")
            ));
        }
        Some(Routing::Header(name)) => Some(Route::Header(name.to_owned())),
        Some(Routing::Field(name)) => Some(Route::Field(field(format, name)?)),
        None | Some(Routing::Topic) => None,
    };
    let by_topic = matches!(routing, Some(Routing::Topic));
    let inputs: Vec<Input> = serve.input.iter().map(|text| input(text, &names, by_topic)).collect::<Result<_, _>>()?;
    let mut topics = BTreeSet::new();
    if let Some(twice) = inputs.iter().find(|input| !topics.insert(input.topic.as_str())) {
        return rule(format!("--input {}: it stands there twice", twice.topic));
    }
    match names.iter().find(|name| !inputs.iter().any(|input| input.models.iter().any(|model| model == *name))) {
        Some(name) => rule(format!("--model {name}: no input is for it; --input TOPIC={name} says which is")),
        None => Ok((inputs, route)),
    }
}

fn routing(text: &str) -> Result<Routing<'_>, ConfigError> {
    match text.split_once(':') {
        Some(("header", name)) if name.starts_with(HEADER_PREFIX) => rule(format!(
            "--route {text}: headers that begin with {HEADER_PREFIX} are ours, and no replayed record keeps them; name another"
        )),
        Some(("header", name)) if !name.is_empty() => Ok(Routing::Header(name)),
        Some(("field", name)) if !name.is_empty() => Ok(Routing::Field(name)),
        None if text == "topic" => Ok(Routing::Topic),
        _ => rule(format!("--route {text}: expected header:NAME, field:NAME or topic")),
    }
}

fn field(format: &InputFormat, name: &str) -> Result<WordField, ConfigError> {
    WordField::new(format, name).or_else(|reason| rule(format!("--route field:{name}: {reason}")))
}

fn input(text: &str, models: &[&str], by_topic: bool) -> Result<Input, ConfigError> {
    let (topic, model) = match text.split_once('=') {
        Some((topic, model)) => (topic, Some(model)),
        None => (text, None),
    };
    if topic.is_empty() {
        return rule(format!("--input {text}: expected TOPIC or TOPIC=MODEL"));
    }
    let models = match model {
        None if by_topic => {
            return rule(format!("--input {text}: with --route topic each input names its model, {text}=MODEL"));
        }
        None => models.to_vec(),
        Some(_) if !by_topic => {
            return rule(format!("--input {text}: an input names its model with --route topic only"));
        }
        Some(model) if models.contains(&model) => vec![model],
        Some(model) => {
            return rule(format!(
                "--input {text}: {model} is none of the models that are served: {}",
                models.join(", ")
            ));
        }
    };
    Ok(Input { topic: topic.to_owned(), models: models.into_iter().map(str::to_owned).collect() })
}

fn rule<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Relation(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::serve::Settings;

    fn told(line: &[&str]) -> Result<Settings, ConfigError> {
        let words = ["modelstream", "serve", "--output", "out"].iter().chain(line).map(|word| (*word).into());
        let cli = cli::try_parse(words).expect("a line");
        let cli::Verb::Serve(typed) = &cli.verb else { panic!("another verb") };
        config::serve(&cli.common, typed)
    }

    /// Topic, models and group of each input.
    fn inputs_of(line: &[&str]) -> Vec<(String, String, String)> {
        let settings = told(line).expect("valid");
        let inputs = settings.inputs.into_iter();
        inputs.map(|input| (input.input, input.models.join(","), input.group)).collect()
    }

    fn owned(inputs: &[[&str; 3]]) -> Vec<(String, String, String)> {
        inputs.iter().map(|[topic, models, group]| (topic.to_string(), models.to_string(), group.to_string())).collect()
    }

    #[test]
    fn one_model_needs_no_route() {
        let one = inputs_of(&["--model", "iris:7", "--input", "a"]);
        assert_eq!(one, owned(&[["a", "iris", "modelstream.iris.a"]]));
        let two = inputs_of(&["--model", "iris", "--input", "a", "--input", "b"]);
        assert_eq!(two, owned(&[["a", "iris", "modelstream.iris.a"], ["b", "iris", "modelstream.iris.b"]]));
    }

    #[test]
    fn an_input_is_for_all_models_or_for_the_one_that_it_names() {
        let models = ["--model", "iris,wine:2"];
        let all = inputs_of(&[&models[..], &["--input", "a,b", "--route", "header:to"]].concat());
        assert_eq!(all, owned(&[["a", "iris,wine", "modelstream.a"], ["b", "iris,wine", "modelstream.b"]]));
        let bound = ["--input", "a=wine", "--input", "b=iris", "--input", "c=iris", "--route", "topic"];
        let bound = inputs_of(&[&models[..], &bound].concat());
        let expected = [
            ["a", "wine", "modelstream.wine.a"],
            ["b", "iris", "modelstream.iris.b"],
            ["c", "iris", "modelstream.iris.c"],
        ];
        assert_eq!(bound, owned(&expected));
        let named = inputs_of(&[&models[..], &["--input", "a", "--route", "field:to", "--group", "g"]].concat());
        assert_eq!(named, owned(&[["a", "iris,wine", "g"]]));
    }

    #[test]
    fn what_leaves_a_record_without_its_model_is_refused_with_the_rule() {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/iris.avsc");
        for (line, expected) in [
            (&["--model", "a,b", "--input", "i"][..], "--route says"),
            (&["--model", "a,a:2", "--input", "i", "--route", "header:h"], "twice"),
            (&["--model", "a,b", "--input", "i,i", "--route", "header:h"], "twice"),
            (&["--model", "a,b", "--input", "i=a,j=c", "--route", "topic"], "none of the models"),
            (&["--model", "a,b", "--input", "i=a,j", "--route", "topic"], "j=MODEL"),
            (&["--model", "a,b", "--input", "i=a,j=a", "--route", "topic"], "TOPIC=b"),
            (&["--model", "a,b", "--input", "i=a", "--route", "header:h"], "--route topic"),
            (&["--model", "a", "--input", "i=a"], "--route topic"),
            (&["--model", "a", "--input", "=a", "--route", "topic"], "TOPIC=MODEL"),
            (&["--model", "a,b", "--input", "i", "--route", "header"], "header:NAME"),
            (&["--model", "a,b", "--input", "i", "--route", "header:"], "header:NAME"),
            (&["--model", "a,b", "--input", "i", "--route", "field:"], "header:NAME"),
            (&["--model", "a,b", "--input", "i", "--route", "key:x"], "header:NAME"),
            (&["--model", "a,b", "--input", "i", "--route", "header:modelstream-model"], "replayed"),
            (
                &[
                    "--model",
                    "a,b",
                    "--input",
                    "i",
                    "--route",
                    "field:x",
                    "--input-format",
                    "avro",
                    "--input-schema",
                    schema,
                ],
                "no field",
            ),
            (&["--model", "a", "--input", "i,i.dead-letters"], "same topic"),
            (&["--model", "a", "--input", "i,out"], "same topic"),
            (&["--model", "a", "--input", "i,j", "--dead-letters", "j"], "same topic"),
        ] {
            let refused = told(line).expect_err("a rule is broken").to_string();
            assert!(refused.contains(expected), "{line:?}: {refused}");
        }
    }
}
