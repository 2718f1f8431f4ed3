//! One scrape on its way to the `prometheus` crate: values put down family by family, in whatever order they are read.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily};

use super::{metrics::Family, series::Durations};

/// The families that have a value in this scrape.
#[derive(Default)]
pub(super) struct Sheet {
    families: BTreeMap<&'static str, MetricFamily>,
}

impl Sheet {
    pub(super) fn counter(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        self.metric(family, labels).set_counter(counter);
    }

    pub(super) fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.metric(family, labels).set_gauge(gauge);
    }

    pub(super) fn durations(&mut self, family: &'static Family, labels: &[&str], durations: &Durations) {
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(durations.cumulative().map(bucket).collect());
        histogram.set_sample_count(durations.count());
        histogram.set_sample_sum(durations.total.as_secs_f64());
        self.metric(family, labels).set_histogram(histogram);
    }

    /// Takes a family as the crate's own metrics give it.
    pub(super) fn family(&mut self, family: &'static Family, values: MetricFamily) {
        self.families.insert(family.name, values);
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.families.into_values().collect()
    }

    fn metric(&mut self, family: &'static Family, labels: &[&str]) -> &mut Metric {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let metric = Metric::from_label(family.labels.iter().zip(labels).map(pair).collect());
        let metrics = self.families.entry(family.name).or_insert_with(|| family.empty()).mut_metric();
        metrics.push(metric);
        metrics.last_mut().expect("one was just put there")
    }
}

impl Family {
    fn empty(&self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family
    }
}
