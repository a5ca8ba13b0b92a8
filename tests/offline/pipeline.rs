//! The way of one request, without a broker: what is answered, what is refused and why, and what
//! gets no reply. The same function that `serve` calls.

use super::support::{Bench, NOW, POLICY, decode};
use proptest::prelude::*;
use serde_json::{Value, json};
use solewriter_core::callout::authorizer::{Authorisation, Authorizer};
use solewriter_core::callout::decide::Decider;
use solewriter_core::callout::issue::{Issuer, Operator, Placed};
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{Account, Seed, Server, Signer};

fn authorise(bench: &Bench, policy: &str, claims: &Value) -> Authorisation {
    let policy = bench.policy(policy);
    let token = bench.signed(claims);
    bench
        .authorizer
        .authorise(&token, None, (&bench.decider, &policy), &Bench::moment())
        .unwrap_or_else(|rejection| panic!("rejected: {rejection}"))
}

/// The reason code of a denial.
fn denial(bench: &Bench, policy: &str, claims: &Value) -> &'static str {
    let authorisation = authorise(bench, policy, claims);
    let answer = decode(&authorisation.answer.unwrap());
    assert!(answer["nats"].get("jwt").is_none(), "a denial holds no user JWT");
    assert_eq!(answer["nats"]["error"], "denied by solewriter, decision DECISION");
    authorisation.decision.unwrap_err().reason.code()
}

/// The code of a rejection, for which there is no answer at all.
fn rejection(bench: &Bench, payload: &[u8], xkey: Option<&str>) -> &'static str {
    let policy = bench.policy(POLICY);
    match bench.authorizer.authorise(payload, xkey, (&bench.decider, &policy), &Bench::moment()) {
        Ok(_) => panic!("it was taken for a server's request"),
        Err(rejection) => rejection.code(),
    }
}

#[test]
fn a_grant_is_what_the_server_expects() {
    let bench = Bench::plain();
    let authorisation = authorise(&bench, POLICY, &bench.claims());
    let token = authorisation.answer.unwrap();
    bench.issuer.public().verify(signed_part(&token), &signature(&token)).unwrap();
    let response = decode(&token);
    assert_eq!(response["aud"], bench.server.public().as_str());
    assert_eq!(response["sub"], bench.user_nkey);
    assert_eq!(response["iss"], bench.issuer.public().as_str());
    assert_eq!(response["nats"]["type"], "authorization_response");
    assert_eq!(response["nats"]["version"], 2);
    assert!(response["nats"].get("error").is_none());

    let user = response["nats"]["jwt"].as_str().unwrap().as_bytes().to_owned();
    bench.issuer.public().verify(signed_part(&user), &signature(&user)).unwrap();
    let user = decode(&user);
    let granted = authorisation.decision.unwrap();
    let (revision, digest) = (granted.revision(), granted.grant().digest().as_str());
    let key = bench.client.public_key();
    assert_eq!(
        user,
        json!({
            "jti": "DECISION", "iat": NOW, "exp": NOW + 3600, "aud": "APP",
            "iss": bench.issuer.public().as_str(), "sub": bench.user_nkey,
            "name": format!("orders/{key}/{}/{digest}/{NOW}/{}", revision.whole(), NOW + 3600),
            "nats": {
                "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
                "bearer_token": false, "issuer_account": "",
                "pub": {"allow": [
                    "$JS.API.CONSUMER.CREATE.KV_orders",
                    "$JS.API.CONSUMER.CREATE.KV_orders.*",
                    "$JS.API.CONSUMER.CREATE.KV_orders.*.$KV.orders.>",
                    "$JS.API.CONSUMER.DELETE.KV_orders.*",
                    "$JS.API.CONSUMER.INFO.KV_orders.*",
                    "$JS.API.DIRECT.GET.KV_orders",
                    "$JS.API.DIRECT.GET.KV_orders.$KV.orders.>",
                    "$JS.API.STREAM.INFO.KV_orders",
                    "$JS.API.STREAM.MSG.GET.KV_orders",
                    "$JS.API.STREAM.PURGE.KV_orders",
                    "$JS.FC.*.*.KV_orders.>",
                    "$JS.FC.KV_orders.>",
                    "$KV.orders.>",
                ]},
                "sub": {"allow": ["_INBOX.orders.>"]},
            },
        })
    );
}

fn signed_part(token: &[u8]) -> &[u8] {
    let end = token.iter().rposition(|b| *b == b'.').unwrap();
    &token[..end]
}

fn signature(token: &[u8]) -> [u8; 64] {
    let at = token.iter().rposition(|b| *b == b'.').unwrap();
    data_encoding::BASE64URL_NOPAD.decode(&token[at + 1..]).unwrap().try_into().unwrap()
}

/// In operator mode the answer names the account that asks, and the user the one that it is placed in:
/// signing keys sign for both.
#[test]
fn in_operator_mode_each_signature_names_its_account() {
    let account = || Signer::<Account>::new(&Seed::generate()).unwrap();
    let (asking, app, issuer, placing) = (account(), account(), account(), account());
    let (issuer_key, placing_key) = (*issuer.public(), *placing.public());
    let placed = Placed { account: *app.public(), signer: placing.into() };
    let accounts = [("APP".into(), placed)].into();
    let issuer = Issuer::new(issuer, None)
        .with_operator(Some(Operator { asking: *asking.public(), accounts }));
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: std::time::Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    };
    let (authorizer, decider) =
        (Authorizer::new(issuer, 2), Decider::new(defaults, Vec::new(), 0.0));
    let bench = Bench::plain();
    let policy = bench.policy(POLICY);
    let ask = |expected: &str| {
        let mut claims = bench.claims();
        claims["sub"] = json!(expected);
        authorizer.authorise(&bench.signed(&claims), None, (&decider, &policy), &Bench::moment())
    };
    let answer = ask(asking.public().as_str()).unwrap().answer.unwrap();
    let said = decode(&answer);
    assert_eq!(said["iss"], issuer_key.as_str());
    assert_eq!(said["nats"]["issuer_account"], asking.public().as_str());
    let user = decode(said["nats"]["jwt"].as_str().unwrap().as_bytes());
    assert_eq!(user["iss"], placing_key.as_str());
    assert_eq!(user["nats"]["issuer_account"], app.public().as_str());
    // Who expects an answer of the key itself is of another deployment.
    assert!(ask(issuer_key.as_str()).is_err());
}

#[test]
fn a_sealed_request_gets_a_sealed_answer() {
    let bench = Bench::sealed();
    let policy = bench.policy(POLICY);
    let sealed = bench.seal(&bench.signed(&bench.claims()));
    let xkey = bench.server_xkey.public_key();
    let authorisation = bench
        .authorizer
        .authorise(&sealed, Some(&xkey), (&bench.decider, &policy), &Bench::moment())
        .unwrap();
    let answer = authorisation.answer.unwrap();
    assert!(answer.starts_with(b"xkv1"));
    let ours = nkeys::XKey::from_public_key(&bench.our_xkey.public_key()).unwrap();
    let opened = bench.server_xkey.open(&answer, &ours).unwrap();
    assert!(decode(&opened)["nats"]["jwt"].is_string());
}

#[test]
fn both_forms_of_base64_are_signatures() {
    let bench = Bench::plain();
    let mut claims = bench.claims();
    let signature = bench.client.sign(b"abcdefghijklmno").unwrap();
    claims["nats"]["connect_opts"]["sig"] = json!(data_encoding::BASE64.encode(&signature));
    assert!(authorise(&bench, POLICY, &claims).decision.is_ok());
}

/// One signature is one text in each alphabet: no padding that should not be there, no bits in the
/// last digit that mean nothing, no byte too many or too few.
#[test]
fn a_signature_is_written_in_these_two_ways_and_in_no_other() {
    let bench = Bench::plain();
    let signature = bench.client.sign(b"abcdefghijklmno").unwrap();
    let url = data_encoding::BASE64URL_NOPAD.encode(&signature);
    let standard = data_encoding::BASE64.encode(&signature);
    // 64 bytes leave four bits of the last digit unused.
    let (body, last) = url.split_at(url.len() - 1);
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = digits.find(last).unwrap();
    let trailing = digits[at + 1..].chars().take(15).map(|digit| format!("{body}{digit}"));
    let mut wrong: Vec<String> = trailing.collect();
    let short = data_encoding::BASE64URL_NOPAD.encode(&signature[..63]);
    let long = data_encoding::BASE64URL_NOPAD.encode(&[&signature[..], &[0]].concat());
    let twice = data_encoding::BASE64URL_NOPAD.encode(&[&signature[..], &signature[..]].concat());
    wrong.extend([short, long, twice, data_encoding::HEXLOWER.encode(&signature)]);
    wrong.extend([format!("{url}="), format!("{url}=="), format!("{url}===")]);
    wrong.extend([format!(" {url}"), format!("{url}\n"), format!("{url}\0"), format!("{url}A")]);
    wrong.extend([format!("{standard}="), format!("{standard}\r\n"), standard.replace("==", "=")]);
    for sig in wrong.into_iter().filter(|sig| *sig != standard) {
        let mut claims = bench.claims();
        claims["nats"]["connect_opts"]["sig"] = json!(sig);
        let decision = authorise(&bench, POLICY, &claims).decision;
        let reason = decision.err().map(|denied| denied.reason.code());
        assert_eq!(reason, Some("signature_form"), "{sig:?}");
    }
    for sig in [url, standard] {
        let mut claims = bench.claims();
        claims["nats"]["connect_opts"]["sig"] = json!(sig);
        assert!(authorise(&bench, POLICY, &claims).decision.is_ok(), "{sig:?}");
    }
}

/// Whoever signs with a server's key of its own is answered as any server is. What it gets is for
/// itself, and for those who proved themselves to it.
#[test]
fn what_a_server_of_somebody_else_gets_is_good_there_alone() {
    let bench = Bench::plain();
    let other = Signer::<Server>::new(&Seed::generate()).unwrap();
    let policy = bench.policy(POLICY);
    let ask = |spoil: &dyn Fn(&mut Value)| {
        let mut claims = bench.claims();
        claims["iss"] = json!(other.public().as_str());
        claims["nats"]["server_id"]["id"] = json!(other.public().as_str());
        spoil(&mut claims);
        let token = Bench::token(&claims, &other);
        bench.authorizer.authorise(&token, None, (&bench.decider, &policy), &Bench::moment())
    };
    // A proof that it was given (or heard) counts with it, as often as it asks, wherever it says
    // that the client is: a server is believed in what it alone can know.
    for host in ["10.1.2.3", "192.0.2.1", "192.0.2.1"] {
        let granted = ask(&|claims| claims["nats"]["client_info"]["host"] = json!(host)).unwrap();
        assert!(granted.decision.is_ok());
        let answer = decode(&granted.answer.unwrap());
        assert_eq!(answer["aud"], other.public().as_str(), "no other server takes it");
        assert_ne!(answer["aud"], bench.server.public().as_str());
        assert_eq!(answer["sub"], bench.user_nkey);
    }
    // Of who never proved anything to it, it gets nothing.
    for (path, value, code) in [
        ("/nats/connect_opts/sig", json!(""), "no_signature"),
        ("/nats/connect_opts/sig", json!("A".repeat(86)), "bad_signature"),
        ("/nats/client_info/nonce", json!("another-nonce.."), "bad_signature"),
        (
            "/nats/connect_opts/nkey",
            json!(nkeys::KeyPair::new_user().public_key()),
            "bad_signature",
        ),
    ] {
        let denied = ask(&|claims| *claims.pointer_mut(path).unwrap() = value.clone()).unwrap();
        assert_eq!(denied.decision.unwrap_err().reason.code(), code, "{path}");
        assert!(decode(&denied.answer.unwrap())["nats"].get("jwt").is_none());
    }
    // A request of another server's, heard and given out for its own, is none.
    let heard = ask(&|claims| claims["iss"] = json!(bench.server.public().as_str()));
    assert_eq!(heard.err().map(|rejection| rejection.code()), Some("issuer_mismatch"));
    let mut named = bench.claims();
    named["nats"]["connect_opts"]["name"] = json!("changed");
    let forged = Bench::token(&named, &other);
    assert_eq!(rejection(&bench, &forged, None), "signature");
}

#[test]
fn each_missing_proof_has_its_own_reason() {
    let bench = Bench::plain();
    let spoil = |path: &str, value: Value| {
        let mut claims = bench.claims();
        *claims.pointer_mut(path).unwrap() = value;
        denial(&bench, POLICY, &claims)
    };
    let options = "/nats/connect_opts";
    assert_eq!(spoil(options, json!({})), "no_credential");
    assert_eq!(spoil(options, json!({"user": "u", "pass": "p"})), "other_credential");
    assert_eq!(spoil(options, json!({"auth_token": "t"})), "other_credential");
    assert_eq!(spoil(options, json!({"jwt": "eyJ0"})), "other_credential");
    // What is left of a .creds file: the server drops the JWT.
    assert_eq!(spoil(options, json!({"sig": "AAAA"})), "other_credential");
    // By MQTT, whatever it offers: a nonce and a signature could only be somebody else's.
    assert_eq!(spoil("/nats/client_info/type", json!("mqtt")), "mqtt");
    assert_eq!(spoil("/nats/connect_opts/sig", json!("")), "no_signature");
    assert_eq!(spoil("/nats/connect_opts/sig", json!("!")), "signature_form");
    assert_eq!(spoil("/nats/connect_opts/sig", json!("AAAA")), "signature_form");
    assert_eq!(spoil("/nats/client_info/nonce", json!("")), "no_nonce");
    assert_eq!(spoil("/nats/client_info/nonce", json!("another nonce")), "bad_signature");
    assert_eq!(spoil("/nats/connect_opts/nkey", json!("UABC")), "bad_key");
    let account = Signer::<Account>::new(&Seed::generate()).unwrap().public().to_string();
    assert_eq!(spoil("/nats/connect_opts/nkey", json!(account)), "bad_key");
    let other = nkeys::KeyPair::new_user().public_key();
    assert_eq!(spoil("/nats/connect_opts/nkey", json!(other)), "bad_signature");
}

/// nats-server logs a leafnode's name as it is, so one with a line break could write the lines of
/// others.
#[test]
fn a_leafnodes_name_is_one_line() {
    let bench = Bench::plain();
    let policy = format!("{POLICY}connections = [\"STANDARD\", \"LEAFNODE\"]\n");
    for (kind, name, reason) in [
        ("Leafnode", "edge\n[1] [ERR]", Some("name")),
        ("Leafnode", "edge\r", Some("name")),
        ("Leafnode", "edge-1 \u{e9}", None),
        ("Client", "a\nclient", None),
    ] {
        let mut claims = bench.claims();
        claims["nats"]["client_info"]["kind"] = json!(kind);
        claims["nats"]["client_info"]["type"] = json!(if kind == "Client" { "nats" } else { "" });
        claims["nats"]["connect_opts"]["name"] = json!(name);
        let decided = authorise(&bench, &policy, &claims).decision;
        let denied = decided.as_ref().err().map(|denied| denied.reason.code());
        assert_eq!(denied, reason, "{kind} {name:?}");
    }
}

#[test]
fn a_password_beside_the_key_is_refused() {
    let bench = Bench::plain();
    for (name, value) in [("jwt", "eyJ0"), ("auth_token", "t"), ("user", "u"), ("pass", "p")] {
        let mut claims = bench.claims();
        claims["nats"]["connect_opts"][name] = json!(value);
        assert_eq!(denial(&bench, POLICY, &claims), "other_credential", "{name}");
    }
}

#[test]
fn what_the_policy_says_of_a_key_decides() {
    let bench = Bench::plain();
    let claims = bench.claims();
    let policy =
        |rest: &str| format!("[bucket.orders]\n[service.orders]\nowns = [\"orders\"]\n{rest}\n");
    let key = bench.client.public_key();
    let other = nkeys::KeyPair::new_user().public_key();
    let with_key = |rest: &str| policy(&format!("nkeys = [\"{key}\"]\n{rest}"));
    let window = |rest: &str| policy(&format!("nkeys = [{{ key = \"{key}\", {rest} }}]"));
    let at = |seconds: i64| jiff::Timestamp::from_second(NOW + seconds).unwrap().to_string();

    for (text, reason) in [
        (policy(&format!("nkeys = [\"{other}\"]")), "unknown_key"),
        (with_key("disabled = \"retired\""), "disabled"),
        (window(&format!("not_before = {}", at(1))), "not_yet_valid"),
        (window(&format!("not_after = {}", at(0))), "no_longer_valid"),
        (with_key("sources = [\"192.168.0.0/16\"]"), "source"),
        (with_key("connections = [\"WEBSOCKET\"]"), "connection"),
    ] {
        assert_eq!(denial(&bench, &text, &claims), reason, "{text}");
    }
    for text in [
        window(&format!("not_before = {}, not_after = {}", at(0), at(1))),
        with_key("sources = [\"192.168.0.0/16\", \"10.0.0.0/8\"]"),
        with_key("connections = [\"WEBSOCKET\", \"STANDARD\"]"),
    ] {
        assert!(authorise(&bench, &text, &claims).decision.is_ok(), "{text}");
    }
}

#[test]
fn a_policy_places_services_only_where_the_settings_let_it() {
    let bench = Bench::plain();
    for (account, allowed) in [("APP", true), ("APP2", true), ("STATE", false), ("AUTH", false)] {
        let policy = format!("{POLICY}account = \"{account}\"\n");
        let decided = authorise(&bench, &policy, &bench.claims()).decision;
        match decided {
            Ok(granted) => assert_eq!((granted.grant().account(), allowed), (account, true)),
            Err(denied) => assert_eq!((denied.reason.code(), allowed), ("account", false)),
        }
    }
}

#[test]
fn how_a_client_connects_is_checked_here() {
    let bench = Bench::plain();
    for (kind, protocol, allowed) in [
        ("Client", "nats", true),
        ("Client", "websocket", false),
        ("Client", "mqtt", false),
        ("Leafnode", "", false),
        ("Leafnode", "nats", false),
        ("Router", "nats", false),
        ("", "", false),
    ] {
        let mut claims = bench.claims();
        claims["nats"]["client_info"]["kind"] = json!(kind);
        claims["nats"]["client_info"]["type"] = json!(protocol);
        let decided = authorise(&bench, POLICY, &claims).decision;
        assert_eq!(decided.is_ok(), allowed, "{kind} {protocol}");
        if let Err(denied) = decided {
            let reason = if protocol == "mqtt" { "mqtt" } else { "connection" };
            assert_eq!(denied.reason.code(), reason);
        }
    }
}

#[test]
fn an_address_that_is_none_is_in_no_network() {
    let bench = Bench::plain();
    let policy = format!("{POLICY}sources = [\"0.0.0.0/0\", \"::/0\"]\n");
    for (host, allowed) in
        [("10.1.2.3", true), ("::1", true), ("::ffff:10.1.2.3", true), ("", false), ("pipe", false)]
    {
        let mut claims = bench.claims();
        claims["nats"]["client_info"]["host"] = json!(host);
        assert_eq!(authorise(&bench, &policy, &claims).decision.is_ok(), allowed, "{host}");
    }
}

#[test]
fn permissions_end_with_the_key() {
    let bench = Bench::plain();
    let key = bench.client.public_key();
    let until = jiff::Timestamp::from_second(NOW + 60).unwrap();
    let policy =
        format!("[service.orders]\nnkeys = [{{ key = \"{key}\", not_after = {until} }}]\n");
    assert_eq!(authorise(&bench, &policy, &bench.claims()).decision.unwrap().expires(), NOW + 60);
}

#[test]
fn no_source_is_let_in_more_often_than_the_settings_say() {
    let reasons = |bench: &Bench, claims: &[serde_json::Value]| -> Vec<&'static str> {
        let decided = claims.iter().map(|claims| authorise(bench, POLICY, claims).decision);
        decided.map(|d| d.map_or_else(|denied| denied.reason.code(), |_| "granted")).collect()
    };
    // By address, before any proof is looked at, so that a flood of bad ones is cheap.
    let bench = Bench::limited(None, Some(2));
    let (good, mut forged, mut elsewhere) = (bench.claims(), bench.claims(), bench.claims());
    forged["nats"]["client_info"]["nonce"] = json!("another nonce..");
    elsewhere["nats"]["client_info"]["host"] = json!("10.1.2.4");
    assert_eq!(
        reasons(&bench, &[forged.clone(), good.clone(), good.clone(), forged.clone(), elsewhere]),
        ["bad_signature", "granted", "limited", "limited", "granted"]
    );
    // By key: only who proved to hold it uses it up.
    let bench = Bench::limited(Some(2), None);
    assert_eq!(
        reasons(&bench, &[forged.clone(), forged, good.clone(), good.clone(), good]),
        ["bad_signature", "bad_signature", "granted", "granted", "limited"]
    );
}

#[test]
fn expiry_is_spread_and_never_longer_than_the_lifetime() {
    let bench = Bench::plain();
    let policy = bench.policy(&format!("{POLICY}lifetime = \"1000s\"\n"));
    let token = bench.signed(&bench.claims());
    for (chance, expires) in [(0.0, NOW + 1000), (0.5, NOW + 950), (1.0, NOW + 900)] {
        let moment = solewriter_core::callout::authorizer::Moment { chance, ..Bench::moment() };
        let decision = bench
            .authorizer
            .authorise(&token, None, (&bench.decider, &policy), &moment)
            .unwrap()
            .decision;
        assert_eq!(decision.unwrap().expires(), expires);
    }
}

#[test]
fn a_service_without_rules_may_do_nothing() {
    let bench = Bench::plain();
    let authorisation =
        authorise(&bench, "[service.idle]\nnkeys = [\"CLIENT\"]\n", &bench.claims());
    let response = decode(&authorisation.answer.unwrap());
    let user = decode(response["nats"]["jwt"].as_str().unwrap().as_bytes());
    assert_eq!(user["nats"]["pub"], json!({"deny": [">"]}));
    assert_eq!(user["nats"]["sub"], json!({"deny": [">"]}));
}

#[test]
fn what_is_not_proved_to_come_from_a_server_gets_no_reply() {
    let bench = Bench::plain();
    let spoil = |path: &str, value: Value| {
        let mut claims = bench.claims();
        *claims.pointer_mut(path).unwrap() = value;
        rejection(&bench, &bench.signed(&claims), None)
    };
    let user = nkeys::KeyPair::new_user().public_key();
    let another_server = Signer::<Server>::new(&Seed::generate()).unwrap();
    assert_eq!(spoil("/aud", json!("something-else")), "not_a_request");
    assert_eq!(spoil("/nats/type", json!("user")), "not_a_request");
    assert_eq!(spoil("/nats/version", json!(1)), "not_a_request");
    assert_eq!(spoil("/iss", json!(user)), "issuer");
    assert_eq!(
        spoil("/nats/server_id/id", json!(another_server.public().as_str())),
        "issuer_mismatch"
    );
    assert_eq!(spoil("/nats/user_nkey", json!(another_server.public().as_str())), "user_nkey");
    assert_eq!(spoil("/sub", json!(user)), "not_an_account");
    let other_issuer = Signer::<Account>::new(&Seed::generate()).unwrap();
    assert_eq!(spoil("/sub", json!(other_issuer.public().as_str())), "other_issuer");
    assert_eq!(spoil("/exp", json!("soon")), "malformed");
    assert_eq!(spoil("/nats/connect_opts", json!(null)), "malformed");

    // Signed by another server than the one it names.
    let forged = Bench::token(&bench.claims(), &another_server);
    assert_eq!(rejection(&bench, &forged, None), "signature");
    let mut renamed = bench.claims();
    renamed["iss"] = json!(another_server.public().as_str());
    assert_eq!(rejection(&bench, &bench.signed(&renamed), None), "issuer_mismatch");
}

#[test]
fn an_expired_request_is_dropped_within_the_leeway() {
    let bench = Bench::plain();
    for (expires, expected) in
        [(NOW - 2, Some("expired")), (NOW - 1, None), (i64::MIN, Some("expired"))]
    {
        let mut claims = bench.claims();
        claims["exp"] = json!(expires);
        match expected {
            Some(code) => assert_eq!(rejection(&bench, &bench.signed(&claims), None), code),
            None => assert!(authorise(&bench, POLICY, &claims).decision.is_ok()),
        }
    }
}

#[test]
fn malformed_truncated_and_oversized_requests_get_no_reply() {
    let bench = Bench::plain();
    let good = bench.signed(&bench.claims());
    for end in 0..good.len() {
        rejection(&bench, &good[..end], None);
    }
    assert_eq!(rejection(&bench, b"", None), "malformed");
    assert_eq!(rejection(&bench, b"{}", None), "malformed");
    assert_eq!(rejection(&bench, &vec![b'a'; 768 * 1024 + 1], None), "too_large");
    // What a server with a raised `max_control_line` may send is answered.
    let mut claims = bench.claims();
    let long = "x".repeat(250 * 1024);
    claims["nats"]["connect_opts"]["name"] = json!(long);
    claims["nats"]["client_info"]["name"] = json!(long);
    assert!(authorise(&bench, POLICY, &claims).decision.is_ok());
    assert_eq!(rejection(&bench, b"xkv1 and so on", None), "sealed");
    // A claim that occurs twice could mean one thing here and another to the server.
    let claims = bench.claims().to_string().replacen('{', "{\"aud\":\"x\",", 1);
    let claims = data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes());
    let signed = format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.{claims}");
    let signature = bench.server.sign(signed.as_bytes());
    let twice = format!("{signed}.{}", data_encoding::BASE64URL_NOPAD.encode(&signature));
    assert_eq!(rejection(&bench, twice.as_bytes(), None), "malformed");
}

#[test]
fn with_an_xkey_nothing_in_the_clear_is_taken() {
    let bench = Bench::sealed();
    let token = bench.signed(&bench.claims());
    let xkey = bench.server_xkey.public_key();
    assert_eq!(rejection(&bench, &token, None), "not_sealed");
    assert_eq!(rejection(&bench, &token, Some(&xkey)), "unopened");
    let sealed = bench.seal(&token);
    assert_eq!(rejection(&bench, &sealed, None), "not_sealed");
    assert_eq!(rejection(&bench, &sealed, Some("Xnonsense")), "server_xkey");
    let other = nkeys::XKey::new();
    assert_eq!(rejection(&bench, &sealed, Some(&other.public_key())), "unopened");
    // Sealed by somebody who took a server's signed request over, to have the answer.
    let ours = nkeys::XKey::from_public_key(&bench.our_xkey.public_key()).unwrap();
    let taken_over = other.seal(&token, &ours).unwrap();
    assert_eq!(rejection(&bench, &taken_over, Some(&other.public_key())), "xkey_mismatch");
    // Sealed to another callout.
    let elsewhere = nkeys::XKey::from_public_key(&nkeys::XKey::new().public_key()).unwrap();
    let elsewhere = bench.server_xkey.seal(&token, &elsewhere).unwrap();
    assert_eq!(rejection(&bench, &elsewhere, Some(&xkey)), "unopened");
}

#[test]
fn nothing_secret_reaches_a_denial() {
    let bench = Bench::plain();
    let mut claims = bench.claims();
    claims["nats"]["connect_opts"] =
        json!({"user": "hans", "pass": "hunter2", "jwt": "eyJzZWNyZXQ"});
    let denied = authorise(&bench, POLICY, &claims).decision.unwrap_err();
    let printed = format!("{denied:?} {}", denied.reason);
    for secret in ["hans", "hunter2", "eyJzZWNyZXQ"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

/// The fuzzer begins where a good request is; without it, it would take days to find one.
#[test]
fn the_fuzzers_corpus_begins_with_good_input() {
    let bench = Bench::plain();
    let corpus = super::repository().join("fuzz/corpus");
    let sample = include_bytes!("../../policy/services.toml").to_vec();
    for (file, good) in [
        ("request/good", bench.signed(&bench.claims())),
        ("claims/good", bench.claims().to_string().into_bytes()),
        ("policy/sample", sample),
    ] {
        let path = corpus.join(file);
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(&path, &good).unwrap();
        }
        assert!(
            std::fs::read(&path).is_ok_and(|kept| kept == good),
            "{} is out of date: run the tests with UPDATE_FIXTURES=1",
            path.display()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever one byte of a signed request is changed to, it is no server's request any more.
    #[test]
    fn any_changed_byte_spoils_a_request(at in any::<prop::sample::Index>(), byte: u8) {
        let bench = Bench::plain();
        let policy = bench.policy(POLICY);
        let mut token = bench.signed(&bench.claims());
        let at = at.index(token.len());
        prop_assume!(token[at] != byte);
        token[at] = byte;
        prop_assert!(bench.authorizer.authorise(&token, None, (&bench.decider, &policy), &Bench::moment()).is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000), xkey: Option<String>) {
        for bench in [Bench::plain(), Bench::sealed()] {
            let policy = bench.policy(POLICY);
            prop_assert!(bench.authorizer.authorise(&bytes, xkey.as_deref(), (&bench.decider, &policy), &Bench::moment()).is_err());
        }
    }
}
