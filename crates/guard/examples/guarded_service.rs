//! A service that connects with the guard: it writes its own bucket, is refused another's, and
//! answers requests where answers belong.
//!
//! ```console
//! $ NATS_URL=nats://127.0.0.1:4222 SEED_FILE=keys/orders.nk cargo run -p solewriter-guard --example guarded_service
//! ```
#![allow(clippy::print_stdout)]

use std::error::Error;

use futures_util::StreamExt;
use solewriter_guard::{Error as Refusal, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Violations are ERROR lines of `tracing`.
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stderr).init();
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let seed_file = std::env::var("SEED_FILE").unwrap_or_else(|_| "keys/orders.nk".to_owned());
    let seed = std::fs::read_to_string(seed_file)?;

    let guarded = solewriter_guard::connect(url, Options::new("orders", seed)).await?;

    let orders = guarded.kv("orders").await?;
    println!("orders/1001 is at revision {}", orders.put("1001", "two chairs".into()).await?);

    // Another's bucket: "permission denied on invoices", at once, and not a timeout.
    match guarded.kv("invoices").await {
        Err(Refusal::Denied(denied)) => println!("{denied}"),
        other => println!("this was to be refused: {:?}", other.map(|_| ())),
    }

    // Whoever asks chooses where the answer goes; the guard sends it to inboxes alone. The sample
    // policy lets this service answer nothing, and the guard says that too.
    let mut questions = guarded.client().subscribe("svc.orders.>").await?;
    println!("ready");
    loop {
        tokio::select! {
            Some(question) = questions.next() => {
                if let Err(error) = guarded.respond(&question, "yes".into()).await {
                    println!("not answered: {error}");
                }
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    guarded.close().await;
    Ok(())
}
