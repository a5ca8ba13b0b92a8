//! More than can be served: what cannot be answered in time is dropped, and the service goes on.

use super::deployment::{Deployment, eventually};
use super::raw::Raw;

const POLICY: &str = "[service.known]\nnkeys = [\"{known}\"]\n";

/// A request that waited longer than the settings allow is dropped unread, and counted.
pub async fn a_request_that_waited_too_long_is_dropped(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let known = deployment.service("known");
    Raw::try_login(deployment.url(), &known.seed).await.unwrap();
    // No patience at all: nothing is ever in time.
    deployment.instances.clear();
    let index = deployment.add_instance(&["--limits-patience", "0s"]).await;
    let url = deployment.url().to_owned();
    let seed = solewriter::keys::Seed::parse(known.seed.expose()).unwrap();
    let refused = tokio::spawn(async move { Raw::try_login(&url, &seed).await.map(drop) });
    let dropped = "solewriter_dropped_requests_total{reason=\"too_late\"}";
    let instance = &mut deployment.instances[index];
    eventually("the dropped request in the metrics", async || {
        (instance.metric(dropped).await >= 1.0).then_some(())
    })
    .await;
    assert!(instance.decisions().is_empty(), "it was dropped unread");
    // The server refuses by itself when its own patience ends.
    assert!(refused.await.unwrap().is_err());
}

/// No more requests wait than the settings allow, and after the rush everything is as before.
pub async fn a_rush_costs_those_who_do_not_fit_and_nobody_after(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let known = deployment.service("known");
    deployment.instances.clear();
    let index = deployment.add_instance(&["--limits-pending", "1"]).await;
    let dropped = "solewriter_dropped_requests_total{reason=\"overloaded\"}";
    let (url, text) = (deployment.url().to_owned(), known.seed.expose().to_owned());
    let instance = &mut deployment.instances[index];
    let mut rush = tokio::task::JoinSet::new();
    eventually("a dropped request in the metrics", async || {
        for _ in 0..50 {
            let (url, seed) = (url.clone(), solewriter::keys::Seed::parse(&text).unwrap());
            rush.spawn(async move { Raw::try_login(&url, &seed).await.map(drop) });
        }
        (instance.metric(dropped).await >= 1.0).then_some(())
    })
    .await;
    let entered = rush.join_all().await;
    assert!(entered.iter().any(Result::is_ok) && entered.iter().any(Result::is_err));
    Raw::try_login(&url, &known.seed).await.unwrap();
}
