//! Programs, pipes and mail servers at work. Each test waits for what it expects.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(timeout_of(work))
}

async fn timeout_of<T>(work: impl Future<Output = T>) -> T {
    timeout(LONG, work).await.expect("in time")
}

fn event(name: &str, state: EventState) -> Event {
    Event { subject: Subject::Instance, name: name.to_owned(), state, priority: 100 }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn programs_of_one_instance_run_in_order_and_never_two_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, lock) = (folder.path().join("log"), folder.path().join("lock"));
    // mkdir fails for the second of two at once.
    let program = |text: &str| {
        Some(Program::shell(&format!(
            "mkdir '{lock}' || echo twice >> '{log}'; {text} >> '{log}'; rmdir '{lock}'; exit 3",
            lock = lock.display(),
            log = log.display()
        )))
    };
    let any = folder.path().join("any.sh");
    fs::write(&any, format!("echo \"$*\" >> '{}'\n", log.display())).expect("written");
    let hooks = Hooks {
        master: program("sleep 0.2; echo master"),
        backup: program("echo backup"),
        any: Some(Program::shell(&format!("/bin/sh '{}'", any.display()))),
        ..Hooks::default()
    };
    on_runtime(async {
        let mut notifier = Notifier::default();
        let mut tickets = Vec::new();
        for state in [EventState::Master, EventState::Backup, EventState::Master] {
            tickets.extend(notifier.tell(&event("VI_1", state), &hooks));
        }
        let status = notifier.queue.status();
        assert_eq!((status.len(), status[0].waiting), (1, 6));
        for (place, ticket) in tickets.into_iter().enumerate() {
            let expected = match place % 2 {
                0 => Done::Failed("exited with status 3".to_owned()),
                _ => Done::Succeeded,
            };
            assert_eq!(ticket.await, expected);
        }
        let status = &notifier.queue.status()[0];
        assert_eq!((status.name.as_str(), status.waiting), ("INSTANCE VI_1", 0));
        assert_eq!((status.succeeded, status.failed, status.dropped), (3, 3, 0));
        let (_, ending) = status.last.as_ref().expect("some have ended");
        assert_eq!(ending, "exited with status 0");
    });
    let expected = [
        "master",
        "INSTANCE VI_1 MASTER 100",
        "backup",
        "INSTANCE VI_1 BACKUP 100",
        "master",
        "INSTANCE VI_1 MASTER 100",
    ];
    assert_eq!(lines(&log), expected);
}

#[test]
fn a_program_that_hangs_delays_only_its_own_instance_and_is_ended() {
    on_runtime(async {
        let mut queue = Queue::default();
        let hangs = Program::shell("sleep 1000").with_limit(Duration::from_millis(200));
        let hung = queue.push("one", hangs);
        let behind = queue.push("one", Program::shell("exit 7"));
        let other = queue.push("other", Program::shell("true"));
        assert_eq!(other.await, Done::Succeeded);
        let why = "did not end within 200 ms and was killed".to_owned();
        assert_eq!(hung.await, Done::Failed(why));
        assert_eq!(behind.await, Done::Failed("exited with status 7".to_owned()));
    });
}

#[test]
fn waiting_programs_are_bounded_and_the_newest_are_kept() {
    on_runtime(async {
        let mut queue = Queue::default();
        let first = queue.push("one", Program::shell("true"));
        let tickets: Vec<_> =
            (0..80).map(|_| queue.push("one", Program::arguments(["true"]))).collect();
        // Nothing has run yet: 64 of 81 wait.
        assert_eq!(first.await, Done::Dropped);
        let mut done = Vec::new();
        for ticket in tickets {
            done.push(ticket.await);
        }
        assert!(done[..16].iter().all(|done| *done == Done::Dropped), "{done:?}");
        assert!(done[16..].iter().all(|done| *done == Done::Succeeded), "{done:?}");
        assert_eq!(queue.status()[0].dropped, 17);
    });
}

#[test]
fn at_the_end_what_was_told_is_still_carried_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let program = Program::shell(&format!("sleep 0.1; echo stop >> '{}'", log.display()));
    let hooks = Hooks { stop: Some(program), ..Hooks::default() };
    on_runtime(async {
        let mut notifier = Notifier::default();
        drop(notifier.tell(&event("VI_1", EventState::Stop), &hooks));
        notifier.stop(LONG).await;
    });
    assert_eq!(lines(&log), ["stop"]);
    // Not for ever.
    let hangs = Hooks { stop: Some(Program::shell("sleep 1000")), ..Hooks::default() };
    on_runtime(async {
        let mut notifier = Notifier::default();
        let ticket = notifier.tell(&event("VI_1", EventState::Stop), &hangs).remove(0);
        notifier.stop(Duration::from_millis(100)).await;
        assert_eq!(ticket.await, Done::Dropped);
    });
}

#[test]
fn lines_go_into_the_pipe_and_nobody_waits_for_a_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    let settings = FifoSettings { path: path.clone(), owner: None, script: None };
    on_runtime(async {
        let mut notifier = Notifier::default();
        let fifo = Fifo::open(settings.clone()).expect("made");
        notifier.fifos.push((FifoScope::Vrrp, fifo));
        let mut reader = fs::File::open(&path).expect("a pipe");
        let hooks = Hooks::default();
        drop(notifier.tell(&event("VI_1", EventState::Master), &hooks));
        drop(notifier.tell(&event("VI_1", EventState::MasterPriority), &hooks));
        drop(notifier.tell(&event("VI_1", EventState::MasterHeardLowerPriority), &hooks));
        let told = Hooks { tells_priorities: true, ..Hooks::default() };
        drop(notifier.tell(&event("VI_1", EventState::BackupPriority), &told));
        let down = ServerEvent {
            virtual_server: "[10.0.0.1]:tcp:80".to_owned(),
            real_server: None,
            is_up: false,
            reason: String::new(),
        };
        drop(notifier.tell_server(&down, None, false));
        let expected = "INSTANCE \"VI_1\" MASTER 100\nINSTANCE \"VI_1\" MASTER_RX_LOWER_PRI 100\n\
            INSTANCE \"VI_1\" BACKUP_PRIORITY 100\n";
        let mut bytes = vec![0; expected.len()];
        reader.read_exact(&mut bytes).expect("lines");
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
        drop(reader);
        let fifo = &notifier.fifos[0].1;
        for _ in 0..10_000 {
            fifo.write("INSTANCE \"VI_1\" MASTER 100");
        }
        assert!(fifo.dropped() > 0, "a pipe holds 64 KiB");
        notifier.stop(LONG).await;
        assert!(!path.exists(), "made here, removed here");

        fs::write(&path, "").expect("written");
        let refused = Fifo::open(settings);
        assert!(matches!(refused, Err(FifoError::NoPipe { .. })), "{refused:?}");
    });
}

#[test]
fn the_script_of_a_pipe_gets_its_path_and_is_asked_to_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, log) = (folder.path().join("fifo"), folder.path().join("log"));
    let script = folder.path().join("reader.sh");
    let text = format!(
        "trap 'echo ended >> \"{log}\"; exit 0' TERM\n\
         while read line; do echo \"$line\" >> '{log}'; done < \"$2\"\n",
        log = log.display()
    );
    fs::write(&script, text).expect("written");
    for is_shell in [true, false] {
        let _ = fs::remove_file(&log);
        let program = if is_shell {
            Program::shell(&format!("exec /bin/sh '{}' word", script.display()))
        } else {
            Program::arguments(["/bin/sh".as_ref(), script.as_os_str(), "word".as_ref()])
        };
        on_runtime(async {
            let script = Some(program);
            let settings = FifoSettings { path: path.clone(), owner: None, script };
            let fifo = Fifo::open(settings).expect("made");
            fifo.write("RS [1.2.3.4]:tcp:80 [10.0.0.1]:tcp:80 UP");
            until("the line is read", || lines(&log).len() == 1).await;
            fifo.stop().await;
        });
        assert_eq!(lines(&log), ["RS [1.2.3.4]:tcp:80 [10.0.0.1]:tcp:80 UP", "ended"]);
    }
}

// ---- mail

fn settings(port: u16) -> MailSettings {
    MailSettings {
        host: "127.0.0.1".to_owned(),
        port,
        hello: "node-a".to_owned(),
        limit: LONG,
        from: "Keepalived <keepalived@node-a>".to_owned(),
        to: vec!["root@example.com".to_owned(), "The Admin <admin@example.com>".to_owned()],
        router: "NGINX_HA".to_owned(),
    }
}

/// Takes one letter; a command that begins with `refused` is refused. What was said is returned.
async fn take_letter(listener: &TcpListener, refused: &str) -> Vec<String> {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220-many\r\n220 words\r\n").await.expect("sent");
    let (mut said, mut is_letter) = (Vec::new(), false);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
        let text = line.trim_end_matches("\r\n").to_owned();
        line.clear();
        let reply = match text.as_str() {
            "." if is_letter => "250 taken\r\n",
            _ if is_letter => "",
            text if !refused.is_empty() && text.starts_with(refused) => "550 never\r\n",
            "DATA" => "354 go on\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 good\r\n",
        };
        is_letter = if text == "." { false } else { is_letter || text == "DATA" };
        let is_last = text == "QUIT";
        said.push(text);
        stream.write_all(reply.as_bytes()).await.expect("sent");
        if is_last {
            break;
        }
    }
    said
}

#[test]
fn a_letter_has_the_words_of_keepalived() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mailer = Some(Mailer::start(settings(port)));
        let mut notifier = Notifier { mailer, ..Notifier::default() };
        let hooks = Hooks { sends_mail: true, ..Hooks::default() };
        drop(notifier.tell(&event("VI_1", EventState::Master), &hooks));
        drop(notifier.tell(&event("VI_2", EventState::Master), &Hooks::default()));
        let said = take_letter(&listener, "").await;
        let commands = [
            "HELO node-a",
            "MAIL FROM:<keepalived@node-a>",
            "RCPT TO:<root@example.com>",
            "RCPT TO:<admin@example.com>",
            "DATA",
            "From: Keepalived <keepalived@node-a>",
            "To: root@example.com,",
            " The Admin <admin@example.com>",
            "Subject: [NGINX_HA] VRRP Instance VI_1 - Entering MASTER state",
        ];
        assert_eq!(said[..commands.len()], commands);
        let end = ["", "=> VRRP Instance is now owning VRRP VIPs <=", ".", "QUIT"];
        assert_eq!(said[said.len() - end.len()..], end);
        let mailer = notifier.mailer.as_ref().expect("started");
        until("it is counted", || mailer.status().sent == 1).await;
        notifier.stop(LONG).await;
    });
}

#[test]
fn a_mail_server_that_refuses_is_told_about() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mailer = Mailer::start(settings(listener.local_addr().expect("bound").port()));
        let send = |subject: &str| {
            mailer.send(Letter { subject: subject.to_owned(), body: String::new() });
        };
        for (refused, error) in [
            ("HELO", "it answers \"550 never\" to HELO"),
            ("RCPT", "it answers \"550 never\" to RCPT"),
            ("DATA", "it answers \"550 never\" to DATA"),
        ] {
            let failed = mailer.status().failed;
            send("one");
            take_letter(&listener, refused).await;
            until("it is counted", || mailer.status().failed == failed + 1).await;
            assert_eq!(mailer.status().last_error.as_deref(), Some(error));
        }
        // One recipient is none of the others' business.
        send("two");
        let said = take_letter(&listener, "RCPT TO:<root").await;
        assert!(said.contains(&"Subject: [NGINX_HA] two".to_owned()), "{said:?}");
        until("it is counted", || mailer.status().sent == 1).await;
    });
}

#[test]
fn a_dead_mail_server_delays_nothing_and_fills_nothing() {
    on_runtime(async {
        // Accepts in the kernel and never says a word; its queue of connections is not its answer.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut settings = settings(listener.local_addr().expect("bound").port());
        settings.limit = Duration::from_millis(100);
        let mailer = Some(Mailer::start(settings));
        let mut notifier = Notifier { mailer, ..Notifier::default() };
        let hooks =
            Hooks { sends_mail: true, master: Some(Program::shell("true")), ..Hooks::default() };
        let tickets: Vec<_> = (0..60)
            .flat_map(|_| notifier.tell(&event("VI_1", EventState::Master), &hooks))
            .collect();
        for ticket in tickets {
            assert_eq!(ticket.await, Done::Succeeded);
        }
        for _ in 0..100 {
            drop(notifier.tell(&event("VI_1", EventState::Fault), &hooks));
        }
        let mailer = notifier.mailer.as_ref().expect("started");
        until("it gives up", || mailer.status().failed > 0).await;
        let status = mailer.status();
        assert!(status.dropped >= 30, "{status:?}");
        assert_eq!(status.last_error.as_deref(), Some("it does not answer within 100ms"));
        notifier.stop(Duration::from_millis(200)).await;
        // Endless answers are cut.
        let mut endless = super::tests::settings(listener.local_addr().expect("bound").port());
        endless.limit = LONG;
        while let Ok(accepted) = timeout(Duration::from_millis(50), listener.accept()).await {
            drop(accepted);
        }
        let mailer = Mailer::start(endless);
        mailer.send(Letter { subject: "one".to_owned(), body: String::new() });
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let flood = "2".repeat(64 << 10);
        while stream.write_all(flood.as_bytes()).await.is_ok() {}
        until("it gives up", || mailer.status().failed == 1).await;
    });
}
