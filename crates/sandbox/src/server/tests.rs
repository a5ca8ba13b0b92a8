//! Real nats-server processes: start, stop, restart, early exit.

use std::os::unix::fs::PermissionsExt;

use rustix::process::test_kill_process;
use tempfile::TempDir;

use super::*;
use crate::fetch;

type Tested = Result<(), Box<dyn std::error::Error>>;

const SOON: Duration = Duration::from_secs(10);
const CONFIG: &str = "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\n";

/// The newest server; fetched once, so that the other tests find it in the cache.
async fn binary() -> Result<PathBuf, Box<dyn std::error::Error>> {
    Ok(tokio::task::spawn_blocking(|| fetch::exact(fetch::NEWEST)).await??)
}

fn home(config: &str) -> io::Result<(TempDir, PathBuf)> {
    let dir = TempDir::new()?;
    let file = dir.path().join("nats.conf");
    fs::write(&file, config)?;
    Ok((dir, file))
}

/// A running server and its directory, in an order that drops the server first.
async fn serving(config: &str) -> Result<(TempDir, Server), Box<dyn std::error::Error>> {
    let (dir, file) = home(config)?;
    let server = Server::start(&binary().await?, &file, dir.path()).await?;
    Ok((dir, server))
}

/// Whether it greets now; a refusal is an answer at once, silence after a second.
async fn greets_now(server: &Server) -> bool {
    greets(server.client_url(), false, Instant::now() + SOON).await
}

/// Whether it greets soon, however busy the machine is.
async fn answers(server: &Server) -> bool {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if greets_now(server).await {
            return true;
        }
        sleep(POLL).await;
    }
    false
}

#[tokio::test]
async fn a_started_server_greets_on_the_ports_it_reports_and_a_stopped_one_does_not() -> Tested {
    let (_dir, mut server) =
        serving(&format!("{CONFIG}cluster {{ name: c, listen: \"127.0.0.1:-1\" }}\nwebsocket {{ listen: \"127.0.0.1:-1\", no_tls: true }}")).await?;
    assert!(server.client_url().starts_with("nats://127.0.0.1:"));
    assert!(answers(&server).await);
    let Ports { nats, monitoring, cluster, profile, websocket } = server.ports();
    let counts = [nats, monitoring, cluster, profile, websocket].map(Vec::len);
    assert_eq!(counts, [1, 1, 1, 0, 1]);
    assert!(server.pid().is_some());

    server.stop().await?;
    assert!(!greets_now(&server).await);
    assert_eq!(server.pid(), None);
    assert!(server.log().contains("Server Exiting"));
    // Again is no error.
    server.stop().await?;
    server.kill().await?;
    assert!(matches!(server.reload(), Err(SignalError::NotRunning)));
    Ok(())
}

#[tokio::test]
async fn a_restarted_server_keeps_its_ports_even_after_a_crash() -> Tested {
    let (_dir, mut server) = serving(CONFIG).await?;
    let (before, first) = (server.ports().clone(), server.pid());
    server.restart().await?;
    assert_eq!(*server.ports(), before);
    assert_ne!(server.pid(), first);
    assert!(answers(&server).await);

    server.kill().await?;
    assert!(!greets_now(&server).await);
    server.restart().await?;
    assert_eq!(*server.ports(), before);
    assert!(answers(&server).await);
    Ok(())
}

#[tokio::test]
async fn a_server_that_exits_early_is_quoted() -> Tested {
    let (dir, file) = home("authorization {")?;
    let error = Server::start(&binary().await?, &file, dir.path()).await.err();
    let Some(StartError::Exited { status, log }) = error else {
        return Err(format!("{error:?}").into());
    };
    assert!(!status.success());
    assert!(log.contains("Parse error"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_exits_early_is_quoted_from_its_log_file() -> Tested {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let (dir, file) = home(&format!("listen: \"{}\"\nlog_file: \"my.log\"", taken.local_addr()?))?;
    let error = Server::start_within(&binary().await?, &file, dir.path(), SOON).await.err();
    let Some(StartError::Exited { log, .. }) = error else {
        return Err(format!("{error:?}").into());
    };
    assert!(log.contains("address already in use"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_program_that_serves_nobody_is_not_ready_and_is_killed() -> Tested {
    let (dir, file) = home("")?;
    let program = dir.path().join("sleeper");
    fs::write(&program, "#!/bin/sh\necho $$\nexec sleep 600\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let within = Duration::from_secs(3);
    let error = Server::start_within(&program, &file, dir.path(), within).await.err();
    let Some(StartError::NotReady { log, .. }) = error else {
        return Err(format!("{error:?}").into());
    };
    let pid = Pid::from_raw(log.trim().parse()?).ok_or("no pid")?;
    assert!(test_kill_process(pid).is_err());
    Ok(())
}

#[tokio::test]
async fn a_binary_that_is_not_there_is_named() -> Tested {
    let (dir, file) = home("")?;
    let error = Server::start(Path::new("/nonexistent/nats-server"), &file, dir.path()).await.err();
    assert_eq!(
        error.map(|e| e.to_string()).as_deref(),
        Some("cannot run /nonexistent/nats-server: No such file or directory (os error 2)")
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_server_leaves_no_process() -> Tested {
    let (_dir, server) = serving(CONFIG).await?;
    let pid = server.pid().and_then(|id| Pid::from_raw(id.try_into().ok()?)).ok_or("no pid")?;
    assert!(test_kill_process(pid).is_ok());
    drop(server);
    assert!(test_kill_process(pid).is_err());
    Ok(())
}

#[tokio::test]
async fn a_reload_takes_up_the_changed_config_and_keeps_the_port() -> Tested {
    let (dir, server) = serving(CONFIG).await?;
    let mark = server.log_mark();
    fs::write(dir.path().join("nats.conf"), format!("{CONFIG}debug: true\n"))?;
    server.reload()?;
    let line =
        server.wait_for_log_where(mark, |line| line.contains("Reloaded server"), SOON).await?;
    assert!(line.contains("[INF]"), "{line}");
    assert!(answers(&server).await);
    Ok(())
}

#[tokio::test]
async fn a_paused_server_is_silent_until_resumed_and_can_still_be_stopped() -> Tested {
    let (_dir, mut server) = serving(CONFIG).await?;
    server.pause()?;
    // The signal is delivered a moment later: poll.
    let deadline = Instant::now() + SOON;
    while greets_now(&server).await {
        assert!(Instant::now() < deadline, "still answers");
    }
    assert!(server.is_running());
    server.resume()?;
    assert!(answers(&server).await);
    server.pause()?;
    let asked = Instant::now();
    server.stop().await?;
    assert!(asked.elapsed() < STOP_WITHIN);
    assert!(server.log().contains("Server Exiting"));
    Ok(())
}

#[tokio::test]
async fn the_log_is_the_configured_file_and_can_be_waited_for() -> Tested {
    let (dir, server) = serving(&format!("{CONFIG}log_file: \"my.log\"\n")).await?;
    assert_eq!(server.log_path(), dir.path().join("my.log"));
    let line = server.wait_for_log("Server is ready", SOON).await?;
    assert!(line.ends_with("Server is ready"), "{line}");
    assert!(server.log().contains("Starting nats-server"));

    let error = server.wait_for_log("no such words", Duration::from_millis(50)).await.err();
    let text = error.map(|e| e.to_string()).unwrap_or_default();
    assert!(text.starts_with("nats-server did not log \"no such words\" within 0.05 s"), "{text}");
    assert!(text.contains("Server is ready"), "{text}");
    Ok(())
}

#[tokio::test]
async fn every_supported_version_starts_and_stops() -> Tested {
    for version in fetch::SUPPORTED {
        let binary = tokio::task::spawn_blocking(move || fetch::exact(version)).await??;
        let (dir, file) = home(CONFIG)?;
        let mut server = Server::start(&binary, &file, dir.path()).await?;
        assert!(server.log().contains(version), "{}", server.log());
        server.restart().await?;
        server.stop().await?;
    }
    Ok(())
}

#[test]
fn a_log_file_is_found_in_every_way_to_write_it() {
    for written in [
        "log_file: \"/x y/z.log\"",
        "port: 1\n  logfile = '/x y/z.log' # here",
        "log_file \"/x y/z.log\"",
    ] {
        assert_eq!(log_file(written), Some("/x y/z.log".into()), "{written}");
    }
    assert_eq!(log_file("log_file: z.log, debug: true"), Some("z.log".into()));
    assert_eq!(log_file("log_file=z.log"), Some("z.log".into()));
    for none in ["", "# log_file: x", "log_file_size: 3", "log_size_limit: 3", "log_file: $LOG"] {
        assert_eq!(log_file(none), None, "{none}");
    }
}

#[test]
fn free_ports_are_different_and_given_to_nobody_else() -> Tested {
    let (one, other) = (free_ports(20)?, free_ports(20)?);
    let distinct: std::collections::BTreeSet<_> = one.iter().chain(&other).collect();
    assert_eq!((one.len(), other.len(), distinct.len()), (20, 20, 40));
    // A connection's own end, and a listener on any port.
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let connection = std::net::TcpStream::connect(listener.local_addr()?)?;
    let first = first_ephemeral_port();
    assert!(listener.local_addr()?.port() >= first && connection.local_addr()?.port() >= first);
    assert!(distinct.iter().all(|port| (LOWEST_PORT..first).contains(port)));
    // Another process that looks for ports finds these claimed.
    for port in distinct {
        let refused = std::net::UdpSocket::bind(("127.0.0.1", *port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_somebody_has_for_a_moment_is_waited_for() -> Tested {
    let port = free_ports(1)?[0];
    let held = TcpListener::bind(("127.0.0.1", port))?;
    let (dir, config) = home(&format!("listen: \"127.0.0.1:{port}\"\n"))?;
    let binary = binary().await?;
    let output = dir.path().join("nats-server.out");
    let free_it = async {
        let deadline = Instant::now() + SOON;
        while !fs::read_to_string(&output).is_ok_and(|said| said.contains(PORT_TAKEN)) {
            assert!(Instant::now() < deadline, "it did not meet the listener");
            sleep(POLL).await;
        }
        drop(held);
    };
    let (started, ()) = tokio::join!(Server::start(&binary, &config, dir.path()), free_it);
    assert_eq!(started?.client_url(), format!("nats://127.0.0.1:{port}"));
    Ok(())
}
