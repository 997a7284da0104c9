//! The models that a lane serves, and what it scores their records with.
//!
//! A lane of one model has no router, and nothing is looked up for a record. With several, the records of a batch are sorted by
//! model, each model's are scored as one block, and the outcomes are sent in the records' order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;

use crate::kafka;
use crate::kafka::consumer::Record;
use crate::kafka::producer::Sent;
use crate::pipeline::{Outcome, Scorer, ServedModel};
use crate::serve::active::Active;
use crate::serve::batch::Batch;
use crate::serve::breaker::Breaker;
use crate::serve::crash::{self, Point};
use crate::serve::delivery::Delivery;
use crate::serve::memory;
use crate::serve::output::{Outputs, Provenance};
use crate::serve::settings::LaneSettings;
use crate::telemetry::{LaneMetrics, ModelMetrics, Stage};

use super::router::{ROUTED_BYTES, Router};

/// One model of a lane.
struct LaneModel {
    active: Arc<Active>,
    /// The version that was taken up last; 0 before the first.
    version: u64,
    provenance: Provenance,
    breaker: Breaker,
    metrics: ModelMetrics,
    /// Its dead letters since the breaker counted.
    dead_letters: u64,
}

/// The models of a lane; at least one.
pub(super) struct Models {
    models: Vec<LaneModel>,
    /// By model. Apart from them, because outcomes are borrowed from here while their models count.
    scorers: Vec<Scorer>,
    /// Where a record says which model it is for.
    router: Option<Router>,
    settings: Arc<LaneSettings>,
}

impl Models {
    pub(super) fn new(actives: Vec<Arc<Active>>, settings: Arc<LaneSettings>, metrics: &LaneMetrics) -> Models {
        let breaker = || Breaker::new(settings.dead_letter_share_max);
        let names = || actives.iter().map(|active| active.selector().model.clone()).collect();
        let router = settings.route.clone().map(|route| Router::new(route, names(), breaker()));
        let scorers = actives.iter().map(|_| Scorer::new()).collect();
        let models = actives.iter().map(|active| LaneModel {
            active: Arc::clone(active),
            version: 0,
            provenance: Provenance::default(),
            breaker: breaker(),
            metrics: metrics.model(),
            dead_letters: 0,
        });
        Models { models: models.collect(), scorers, router, settings: Arc::clone(&settings) }
    }

    /// Whether each has a version. While one has none, its records cannot be scored, and those behind them in their partitions
    /// cannot be committed.
    pub(super) fn are_set(&self) -> bool {
        self.models.iter().all(|model| model.active.is_set())
    }

    /// Whether a circuit is open: nothing is to be read.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        let router = self.router.iter_mut().map(|router| &mut router.breaker);
        self.models.iter_mut().map(|model| &mut model.breaker).chain(router).any(|breaker| breaker.is_open(now))
    }

    /// The most records of the next batch: fewer than usual where rows are wide, and where a circuit tries a few.
    pub(super) fn batch_records(&self, usual: usize) -> usize {
        let breakers = self.models.iter().map(|model| &model.breaker);
        let breakers = breakers.chain(self.router.iter().map(|router| &router.breaker));
        let usual = breakers.fold(usual, |records, breaker| breaker.records_max(records));
        let versions = self.models.iter().map(|model| model.active.load());
        versions.fold(usual, |records, version| version.as_ref().map_or(records, |model| self.fitting(records, model)))
    }

    /// How many of `records` of this model fit one batch.
    fn fitting(&self, records: usize, model: &ServedModel) -> usize {
        let routed = if self.router.is_some() { ROUTED_BYTES } else { 0 };
        memory::batch_records(records, model.scored_bytes_max() + routed, self.models.len())
    }

    /// Begins a batch.
    pub(super) fn sort(&mut self, records: &[Record<'_>]) {
        if let Some(router) = &mut self.router {
            router.sort(records);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.models.len()
    }

    /// How many records of the batch, which was sorted, are for model `index`.
    pub(super) fn records_of(&self, index: usize, batch: &Batch<'_>) -> usize {
        self.router.as_ref().map_or(batch.records.len(), |router| router.records_of(index))
    }

    /// The version of model `index` that a batch is to be scored with.
    pub(super) fn load(&self, index: usize) -> Guard<Option<Arc<ServedModel>>> {
        self.models[index].active.load()
    }

    /// Whether this is the version of model `index` that was taken up last.
    pub(super) fn has_taken_up(&self, index: usize, model: &ServedModel) -> bool {
        self.models[index].version == model.version
    }

    /// From now on outputs of model `index` come from this version.
    pub(super) fn take_up(&mut self, index: usize, model: &ServedModel) {
        let timer = Instant::now();
        let of = &mut self.models[index];
        of.version = model.version;
        of.provenance = Provenance::of(model);
        of.breaker.model_changed();
        of.metrics.take_up(&model.name, model.version, &model.model.signature().target.classes, timer.elapsed());
    }

    /// Scores the records of the batch that are for model `index`, with the version that it has taken up. The outcomes stay until
    /// the next batch.
    ///
    /// # Errors
    /// When they are more than fit one batch of this version.
    pub(super) fn score(
        &mut self,
        index: usize,
        model: &ServedModel,
        batch: &Batch<'_>,
        metrics: &LaneMetrics,
    ) -> Result<(), kafka::Error> {
        let records = self.records_of(index, batch);
        if self.fitting(records, model) < records {
            let (doing, cause) = ("scoring".to_owned(), "the new version takes smaller batches".to_owned());
            return Err(kafka::Error::Abortable { doing, cause });
        }
        let scorer = &mut self.scorers[index];
        match &self.router {
            None => score(scorer, model, batch.records.iter().map(Record::payload), metrics),
            Some(router) => score(scorer, model, router.payloads(index, &batch.records), metrics),
        }
        Ok(())
    }

    /// Sends the outcomes that are not sent yet, until all are or the producer is full; counts them.
    ///
    /// # Errors
    /// When the transaction cannot be committed any more, or the producer is of no use.
    pub(super) fn send(
        &mut self,
        batch: &mut Batch<'_>,
        outputs: &Outputs,
        delivery: &mut Delivery,
        metrics: &mut LaneMetrics,
    ) -> Result<(), kafka::Error> {
        let (timer, before) = (Instant::now(), batch.sent);
        let sending = Sending { models: &mut self.models, outputs, delivery, metrics };
        let unrouted = match &self.router {
            None => sending.run(batch, self.scorers[0].outcomes().map(|outcome| (Some(0), outcome)))?,
            Some(router) => sending.run(batch, router.outcomes(&self.scorers))?,
        };
        let sent = batch.sent - before;
        if sent > 0 {
            metrics.stage(Stage::Produce, timer.elapsed());
        }
        self.count(sent as u64, unrouted, Instant::now());
        Ok(())
    }

    /// Counts the records that were sent: those of each model, and those for none among all.
    fn count(&mut self, sent: u64, unrouted: u64, now: Instant) {
        for LaneModel { active, breaker, metrics, dead_letters, .. } in &mut self.models {
            let dead = std::mem::take(dead_letters);
            let records = metrics.flush() + dead;
            if records > 0 && breaker.count(records, dead, now) {
                tell_open(&self.settings, &format!("records for {} cannot be scored", active.selector().model));
            }
        }
        if let Some(router) = &mut self.router
            && sent > 0
            && router.breaker.count(sent, unrouted, now)
        {
            tell_open(&self.settings, "records are for no model that is served here");
        }
    }
}

fn tell_open(settings: &LaneSettings, what: &str) {
    tracing::error!(
        share_max = settings.dead_letter_share_max,
        dead_letters = settings.dead_letters,
        "too many {what}: the flow stops and a few are tried from time to time; look at the dead letters, then mend the records, publish another model, or raise --dead-letter-share-max",
    );
}

/// Scores one block; where that panics, record by record.
fn score<'a>(
    scorer: &mut Scorer,
    model: &ServedModel,
    payloads: impl Iterator<Item = Option<&'a [u8]>> + Clone,
    metrics: &LaneMetrics,
) {
    let steps = || steps(scorer, model, payloads.clone(), metrics);
    if catch_unwind(AssertUnwindSafe(steps)).is_err() {
        tracing::error!(model = model.name, version = model.version, "scoring panicked; looking for the record");
        scorer.isolate(model, payloads);
    }
}

/// Decode, predict, encode, each timed.
fn steps<'a>(
    scorer: &mut Scorer,
    model: &ServedModel,
    payloads: impl Iterator<Item = Option<&'a [u8]>>,
    metrics: &LaneMetrics,
) {
    let timer = Instant::now();
    scorer.decode(model, payloads);
    let decoded = Instant::now();
    // As a panic this is the model's; there is nothing to abort yet.
    let _ = crash::at(Point::Predict);
    scorer.predict(model);
    let predicted = Instant::now();
    scorer.encode(model);
    metrics.stage(Stage::Decode, decoded - timer);
    metrics.stage(Stage::Predict, predicted - decoded);
    metrics.stage(Stage::Encode, predicted.elapsed());
}

/// What outcomes are sent and counted with.
struct Sending<'l> {
    models: &'l mut [LaneModel],
    outputs: &'l Outputs,
    delivery: &'l mut Delivery,
    metrics: &'l mut LaneMetrics,
}

impl Sending<'_> {
    /// Sends the outcomes of `batch`, of which the first are sent already; each has its model, unless its record is for none.
    /// Returns how many of these were sent.
    fn run<'o>(
        self,
        batch: &mut Batch<'_>,
        outcomes: impl Iterator<Item = (Option<usize>, Outcome<'o>)>,
    ) -> Result<u64, kafka::Error> {
        let Sending { models, outputs, delivery, metrics } = self;
        let (before, mut unrouted) = (batch.sent, 0);
        for (record, (model, outcome)) in batch.records.iter().zip(outcomes).skip(before) {
            if batch.sent == batch.records.len() / 2 {
                crash::at(Point::MidProduce)?;
            }
            let model = model.map(|index| &mut models[index]);
            let provenance = model.as_ref().map(|model| &model.provenance);
            if outputs.send(delivery, record, provenance, &outcome)? == Sent::Full {
                break;
            }
            if let Outcome::DeadLetter(dead) = outcome {
                metrics.dead_letter(dead.reason().as_str());
            }
            match (model, outcome) {
                (Some(model), Outcome::Prediction { class, .. }) => model.metrics.prediction(class),
                (Some(model), Outcome::DeadLetter(_)) => model.dead_letters += 1,
                (None, _) => unrouted += 1,
            }
            batch.sent += 1;
        }
        delivery.finished(&batch.records[before..batch.sent]);
        Ok(unrouted)
    }
}
