//! Checks queries against the metrics catalogue without a server: that each metric exists, has the labels that a
//! query uses, and is used according to its type.
//!
//! The labels of a query's result are derived as Prometheus would, to find a legend, a `by` or two sides of a division
//! that can never match.

use std::collections::{BTreeMap, BTreeSet};

use daymend::metrics::{Metric, Source, Type, catalogue::ALL};
use promql_parser::{
    label::{MatchOp, Matchers},
    parser::{self, AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorSelector, value::ValueType},
};

pub type Labels = BTreeSet<String>;

/// The labels that Prometheus or Kubernetes adds to every series.
const TARGET: [&str; 3] = ["instance", "job", "namespace"];

/// The metrics that a query may name: those of the catalogue and those that rules record.
#[derive(Debug, Default)]
pub struct Vocabulary {
    recorded: BTreeMap<String, Labels>,
}

/// The result of checking a query.
#[derive(Debug, Default)]
pub struct Checked {
    /// The labels of its result.
    pub labels: Labels,
    /// The metrics of the catalogue that it reads.
    pub metrics: BTreeSet<&'static str>,
    /// Metric, label and value of each matcher on a label of the catalogue.
    pub values: BTreeSet<(&'static str, String, String)>,
}

/// The context of a selector.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The function whose argument it is.
    function: String,
    /// The innermost aggregation around it.
    aggregation: String,
    /// Whether only the existence of its series matters, not their values.
    is_presence: bool,
}

impl Vocabulary {
    /// Adds a recording rule's name, with the labels of its series.
    pub fn record(&mut self, name: &str, labels: Labels) {
        self.recorded.insert(name.to_owned(), labels);
    }

    /// Checks a query; the error says what is wrong with it.
    pub fn check(&self, query: &str) -> Result<Checked, String> {
        let expr = parser::parse(query).map_err(|error| format!("{query}\ndoes not parse: {error}"))?;
        let mut checked = Checked::default();
        checked.labels =
            self.labels(&expr, &Place::default(), &mut checked).map_err(|error| format!("{query}\n{error}"))?;
        Ok(checked)
    }

    fn labels(&self, expr: &Expr, place: &Place, checked: &mut Checked) -> Result<Labels, String> {
        match expr {
            Expr::Paren(paren) => self.labels(&paren.expr, place, checked),
            Expr::Unary(unary) => self.labels(&unary.expr, place, checked),
            Expr::Subquery(subquery) => self.labels(&subquery.expr, place, checked),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(Labels::new()),
            Expr::VectorSelector(selector) => self.selected(selector, place, checked),
            Expr::MatrixSelector(selector) => self.selected(&selector.vs, place, checked),
            Expr::Call(call) => self.called(call, place, checked),
            Expr::Aggregate(aggregate) => self.aggregated(aggregate, place, checked),
            Expr::Binary(binary) => self.joined(binary, place, checked),
            Expr::Extension(_) => Err("an extension of PromQL".to_owned()),
        }
    }

    fn selected(&self, selector: &VectorSelector, place: &Place, checked: &mut Checked) -> Result<Labels, String> {
        let name = selector.name.as_deref().ok_or("a selector without a name")?;
        let mut labels: Labels = TARGET.map(str::to_owned).into();
        let metric = match name {
            "ALERTS" => {
                labels.extend(["alertname", "alertstate", "severity"].map(str::to_owned));
                None
            }
            _ if name.contains(':') => {
                labels = self.recorded.get(name).ok_or(format!("{name} is recorded by no rule before it"))?.clone();
                None
            }
            _ => {
                let (metric, is_bucket) = catalogued(name)?;
                used_as_what_it_is(metric, name, place)?;
                labels.extend(metric.labels.iter().map(|&label| label.to_owned()));
                labels.extend(is_bucket.then(|| "le".to_owned()));
                checked.metrics.insert(metric.name);
                Some(metric)
            }
        };
        let Matchers { matchers, .. } = &selector.matchers;
        for matcher in matchers {
            let label = &matcher.name;
            if !labels.contains(label) {
                return Err(format!("{name} has no label {label}"));
            }
            if let Some(metric) = metric.filter(|metric| metric.labels.contains(&label.as_str())) {
                let is_pattern = matches!(matcher.op, MatchOp::Re(_) | MatchOp::NotRe(_));
                let values = matcher.value.split('|').take(if is_pattern { usize::MAX } else { 1 });
                checked.values.extend(values.map(|value| (metric.name, label.clone(), value.to_owned())));
            }
        }
        Ok(labels)
    }

    fn called(&self, call: &Call, place: &Place, checked: &mut Checked) -> Result<Labels, String> {
        let function = call.func.name;
        let place = Place { function: function.to_owned(), ..place.clone() };
        let mut labels = Labels::new();
        for argument in &call.args.args {
            labels.extend(self.labels(argument, &place, checked)?);
        }
        match function {
            "histogram_quantile" if !labels.remove("le") => {
                Err("histogram_quantile of something without the label le".to_owned())
            }
            "absent" | "absent_over_time" | "vector" | "scalar" | "time" => Ok(Labels::new()),
            "label_replace" | "label_join" => Err(format!("{function} makes labels that nobody checks")),
            _ => Ok(labels),
        }
    }

    fn aggregated(&self, aggregate: &AggregateExpr, place: &Place, checked: &mut Checked) -> Result<Labels, String> {
        let op = aggregate.op.to_string();
        let inner = Place { function: String::new(), is_presence: op == "group", aggregation: op.clone() };
        // Picking series says nothing about how replicas are combined.
        let is_choice = matches!(op.as_str(), "topk" | "bottomk");
        let labels = self.labels(&aggregate.expr, if is_choice { place } else { &inner }, checked)?;
        if let Some(modifier) = &aggregate.modifier
            && let Some(missing) = modifier.labels().labels.iter().find(|label| !labels.contains(*label))
        {
            return Err(format!("{op} by or without {missing}, a label that is not there: {labels:?}"));
        }
        Ok(match &aggregate.modifier {
            _ if is_choice => labels,
            None => Labels::new(),
            Some(LabelModifier::Include(by)) => by.labels.iter().cloned().collect(),
            Some(LabelModifier::Exclude(without)) => minus(labels, &without.labels),
        })
    }

    fn joined(&self, binary: &BinaryExpr, place: &Place, checked: &mut Checked) -> Result<Labels, String> {
        let op = binary.op.to_string();
        let is_presence = matches!(op.as_str(), "unless" | "and");
        let place = Place { function: String::new(), is_presence, ..place.clone() };
        let left = self.labels(&binary.lhs, &place, checked)?;
        let right = self.labels(&binary.rhs, &place, checked)?;
        if binary.lhs.value_type() == ValueType::Scalar {
            return Ok(right);
        }
        if binary.rhs.value_type() == ValueType::Scalar {
            return Ok(left);
        }
        let modifier = binary.modifier.as_ref();
        let by = modifier.and_then(|modifier| modifier.matching.as_ref());
        let (left_key, right_key) = match by {
            Some(LabelModifier::Include(on)) => {
                let on: Labels = on.labels.iter().cloned().collect();
                if let Some(missing) = on.iter().find(|label| !(left.contains(*label) && right.contains(*label))) {
                    return Err(format!("{op} on {missing}: {left:?} and {right:?}"));
                }
                (on.clone(), on)
            }
            Some(LabelModifier::Exclude(ignoring)) => {
                (minus(left.clone(), &ignoring.labels), minus(right.clone(), &ignoring.labels))
            }
            None => (left.clone(), right.clone()),
        };
        match op.as_str() {
            "or" => Ok(&left | &right),
            _ if left_key != right_key => Err(format!("two sides of {op} that never match: {left:?} and {right:?}")),
            "and" | "unless" => Ok(left),
            _ => Ok(modifier.and_then(|modifier| modifier.card.labels()).map_or(left_key, |more| {
                let more = more.labels.iter().cloned();
                left.into_iter().chain(more).collect()
            })),
        }
    }
}

fn minus(mut labels: Labels, without: &[String]) -> Labels {
    labels.retain(|label| !without.contains(label));
    labels
}

/// Finds the metric that the name of a series belongs to, and whether the series is one of its buckets.
fn catalogued(name: &str) -> Result<(&'static Metric, bool), String> {
    let find = |name: &str| ALL.iter().find(|metric| metric.name == name);
    let is_histogram = |metric: &&Metric| matches!(metric.kind, Type::Histogram(_));
    if let Some(metric) = find(name) {
        return if is_histogram(&metric) { Err(format!("{name} is a histogram")) } else { Ok((metric, false)) };
    }
    let parts = ["_bucket", "_sum", "_count"];
    let of = |part: &&str| name.strip_suffix(part).and_then(find).filter(is_histogram);
    let part = parts.iter().find(|part| of(part).is_some());
    part.and_then(|part| Some((of(part)?, *part == "_bucket"))).ok_or(format!("no metric is named {name}"))
}

fn used_as_what_it_is(metric: &Metric, name: &str, place: &Place) -> Result<(), String> {
    let is_rate = matches!(place.function.as_str(), "rate" | "irate" | "increase");
    let is_gauge = metric.kind == Type::Gauge;
    if is_gauge && is_rate {
        return Err(format!("{} of {name}, which is a gauge", place.function));
    }
    if !is_gauge && !is_rate && !place.is_presence {
        return Err(format!("{name} only grows: take its rate or increase"));
    }
    let is_one = matches!(place.aggregation.as_str(), "max" | "min" | "group");
    if is_gauge && metric.source == Source::Scheduler && !is_one {
        return Err(format!("{name} is the same in every scheduler: take its max, then add up"));
    }
    Ok(())
}

#[test]
fn wrong_queries_are_found() {
    let mut vocabulary = Vocabulary::default();
    vocabulary.record("daymend:jobs:max", ["namespace", "kind"].map(str::to_owned).into());
    for right in [
        "sum by (kind) (rate(daymend_attempts_total{outcome=\"failed\"}[5m]))",
        "sum(max by (kind) (daymend_jobs))",
        "histogram_quantile(0.9, sum by (le) (rate(daymend_job_duration_seconds_bucket[5m])))",
        "daymend_pool_connections{state=\"used\"} / ignoring (state) daymend_pool_connections_max",
        "daymend:jobs:max{kind=\"repair\"} > 0 unless on (namespace) group by (namespace) (daymend_jobs_claimed_total)",
    ] {
        vocabulary.check(right).unwrap();
    }
    for (wrong, why) in [
        ("sum(rate(daymend_attempt_total[5m]))", "no metric is named"),
        ("sum(rate(daymend_attempts_total{result=\"ok\"}[5m]))", "has no label result"),
        ("sum by (lab) (rate(daymend_attempts_total[5m]))", "a label that is not there"),
        ("sum(rate(daymend_worker_slots[5m]))", "is a gauge"),
        ("sum(daymend_attempts_total)", "only grows"),
        ("sum by (kind) (daymend_jobs)", "take its max"),
        ("topk(3, daymend_labs)", "take its max"),
        ("sum(rate(daymend_job_duration_seconds[5m]))", "is a histogram"),
        ("histogram_quantile(0.9, sum(rate(daymend_job_duration_seconds_bucket[5m])))", "without the label le"),
        ("daymend_pool_connections / daymend_pool_connections_max", "never match"),
        ("sum by (kind) (rate(daymend_attempts_total[5m])) / sum(rate(daymend_attempts_total[5m]))", "never match"),
        ("max by (kind) (daymend_jobs) * on (state) max by (kind) (daymend_paused)", "on state"),
        ("daymend:jobs:sum > 0", "recorded by no rule"),
        ("sum(rate(daymend_attempts_total[5m])", "does not parse"),
    ] {
        let error = vocabulary.check(wrong).unwrap_err();
        assert!(error.contains(why), "{wrong}: {error}");
    }
}
