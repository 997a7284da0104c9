//! Sorts the records of a batch by model, and puts the outcomes back into the records' order.

use crate::kafka::consumer::Record;
use crate::pipeline::{DeadLetter, Outcome, Route, Scorer};
use crate::serve::breaker::Breaker;

/// What a record takes here until its batch is sent: where it goes, and its position among those of its model.
pub(super) const ROUTED_BYTES: usize = size_of::<Result<usize, DeadLetter>>() + size_of::<u32>();

/// Knows which of a lane's models each record of a batch is for.
pub(super) struct Router {
    route: Route,
    names: Vec<String>,
    /// By record its model, or why it has none.
    models: Vec<Result<usize, DeadLetter>>,
    /// By model the positions of its records in the batch.
    records: Vec<Vec<u32>>,
    /// Stops the flow when too many records are for none of the models.
    pub(super) breaker: Breaker,
}

impl Router {
    pub(super) fn new(route: Route, names: Vec<String>, breaker: Breaker) -> Router {
        let records = names.iter().map(|_| Vec::new()).collect();
        Router { route, names, models: Vec::new(), records, breaker }
    }

    /// Begins a batch.
    pub(super) fn sort(&mut self, records: &[Record<'_>]) {
        self.models.clear();
        self.records.iter_mut().for_each(Vec::clear);
        for (position, record) in (0..).zip(records) {
            let model = self.route.find(&self.names, record.payload(), record.headers());
            if let Ok(model) = model {
                self.records[model].push(position);
            }
            self.models.push(model);
        }
    }

    /// How many of the batch's records are for model `model`.
    pub(super) fn records_of(&self, model: usize) -> usize {
        self.records[model].len()
    }

    /// The values of the records that are for model `model`, of the batch that was sorted.
    pub(super) fn payloads<'a>(
        &'a self,
        model: usize,
        records: &'a [Record<'_>],
    ) -> impl Iterator<Item = Option<&'a [u8]>> + Clone {
        self.records[model].iter().map(move |position| records[*position as usize].payload())
    }

    /// One outcome for each record, in the records' order, with its model where it is for one. `scorers` have scored each model's
    /// records.
    pub(super) fn outcomes<'a>(&'a self, scorers: &'a [Scorer]) -> impl Iterator<Item = (Option<usize>, Outcome<'a>)> {
        let mut by_model: Vec<_> = scorers.iter().map(Scorer::outcomes).collect();
        self.models.iter().map(move |model| match model {
            Ok(model) => {
                let outcome = by_model[*model].next().expect("each of a model's records was scored");
                (Some(*model), outcome)
            }
            Err(dead) => (None, Outcome::DeadLetter(dead)),
        })
    }
}
