//! Hostile presigned URLs: each is refused for the reason that it should be.
use super::*;

const SIGNATURE: &str = "1ba96fb88c67b5fa2d5f4b3dcbb624b9f3a09c808549c31a3e59b02ce3e259bd";
const NOW: &str = "2026-11-21T17:10:00Z";

/// What `aws eks get-token` of botocore 1.43 wrote, its signature aside.
fn stock() -> String {
    format!(
        "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=ASIAEXAMPLE000000000%2F20261121%2Fus-east-1%2Fsts%2Faws4_request&X-Amz-Date=20261121T170831Z\
         &X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Security-Token=aa%2B%2F%3D%3D&X-Amz-Signature={SIGNATURE}"
    )
}

fn token(url: &str) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(url))
}

fn read(url: &str) -> Result<Presigned, Fault> {
    Presigned::read(&token(url), &Hosts::default())
}

/// The stock URL with one text in place of another.
fn with(from: &str, to: &str) -> String {
    let url = stock();
    assert!(url.contains(from), "{from}");
    url.replacen(from, to, 1)
}

fn without(parameter: &str) -> String {
    let url = stock();
    let (head, query) = url.split_once('?').expect("a query");
    let rest: Vec<&str> =
        query.split('&').filter(|pair| !pair.starts_with(&format!("{parameter}="))).collect();
    format!("{head}?{}", rest.join("&"))
}

#[test]
fn a_stock_url_is_read_and_written_anew() {
    let presigned = read(&stock()).expect("read");
    assert_eq!(format!("https://{}{}", presigned.host(), presigned.path_and_query()), stock());
    assert_eq!(presigned.end().to_string(), "2026-11-21T17:23:31Z");
    assert_eq!(presigned.check_time(NOW.parse().expect("a time")), Ok(()));
    let user = read(&without("X-Amz-Security-Token")).expect("a user's has none");
    assert!(!user.path_and_query().contains("Security"));
    let reordered =
        with("?Action=GetCallerIdentity&Version=2011-06-15", "?Version=2011-06-15&Action=GetCallerIdentity");
    assert_eq!(read(&reordered), read(&stock()), "the order says nothing");
    assert_eq!(read(&with("%2B%2F", "%2b%2f")), read(&stock()), "nor does the case of an escape");
    let fips = stock().replacen("sts.us-east-1", "sts-fips.us-east-1", 1);
    assert_eq!(read(&fips).expect("read").host(), "sts-fips.us-east-1.amazonaws.com");
    let global = stock().replacen("sts.us-east-1.", "sts.", 1);
    assert_eq!(read(&global).expect("read").host(), "sts.amazonaws.com");
    assert!(!format!("{presigned:?}").contains(SIGNATURE));
}

#[test]
fn hostile_hosts_paths_and_schemes_are_refused() {
    let host = "sts.us-east-1.amazonaws.com";
    let cases = [
        ("another host", with(host, "evil.example"), Fault::Host),
        ("a suffix", with(host, "sts.amazonaws.com.evil.example"), Fault::Host),
        ("a regional suffix", with(host, "sts.us-east-1.amazonaws.com.evil.example"), Fault::Host),
        ("user information", with(host, "sts.us-east-1.amazonaws.com@evil.example"), Fault::Host),
        ("user information before STS", with(host, "evil@sts.us-east-1.amazonaws.com"), Fault::Host),
        ("user and password", with(host, "a:b@sts.us-east-1.amazonaws.com"), Fault::Host),
        ("a port", with(host, "sts.us-east-1.amazonaws.com:443"), Fault::Host),
        ("another port", with(host, "sts.us-east-1.amazonaws.com:8443"), Fault::Host),
        ("an empty port", with(host, "sts.us-east-1.amazonaws.com:"), Fault::Host),
        ("a dot at the end", with(host, "sts.us-east-1.amazonaws.com."), Fault::Host),
        ("capitals", with(host, "STS.us-east-1.amazonaws.com"), Fault::Host),
        ("an escape in the host", with(host, "sts%2Eus-east-1.amazonaws.com"), Fault::Host),
        ("no region of AWS", with(host, "sts.evil.amazonaws.com"), Fault::Host),
        ("a bucket named sts", with(host, "sts.s3.amazonaws.com"), Fault::Host),
        ("another service", with(host, "iam.amazonaws.com"), Fault::Host),
        ("a longer label", with(host, "evilsts.us-east-1.amazonaws.com"), Fault::Host),
        ("no host", with(host, ""), Fault::Host),
        ("loopback", with(host, "127.0.0.1"), Fault::Host),
        ("an IPv6 address", with(host, "[::1]"), Fault::Host),
        ("instance metadata", with(host, "169.254.169.254"), Fault::Host),
        ("a backslash", with(host, "sts.us-east-1.amazonaws.com\\@evil.example"), Fault::Host),
        ("a fragment as host", with(host, "sts.us-east-1.amazonaws.com#@evil.example"), Fault::Host),
        ("a query as host", with(host, "evil.example?@sts.us-east-1.amazonaws.com"), Fault::Host),
        ("a space in the host", with(host, "sts.us-east-1.amazonaws.com "), Fault::Host),
        ("a NUL in the host", with(host, "sts.us-east-1.amazonaws.com\0"), Fault::Host),
        ("a letter that looks alike", with(host, "st\u{455}.us-east-1.amazonaws.com"), Fault::Host),
        ("China under the wrong suffix", with(host, "sts.cn-north-1.amazonaws.com"), Fault::Host),
        ("plain HTTP", with("https://", "http://"), Fault::Url),
        ("a capital scheme", with("https://", "HTTPS://"), Fault::Url),
        ("another scheme", with("https://", "file://"), Fault::Url),
        ("no scheme", with("https://", "//"), Fault::Url),
        ("one slash", with("https://", "https:/"), Fault::Url),
        ("three slashes", with("https://", "https:///"), Fault::Host),
        ("a line before", format!("\n{}", stock()), Fault::Url),
        ("two slashes for a path", with(".com/?", ".com//?"), Fault::Url),
        ("another path", with(".com/?", ".com/evil?"), Fault::Url),
        ("a dotted path", with(".com/?", ".com/./?"), Fault::Url),
        ("a host after the path", with(".com/?", ".com//evil.example/?"), Fault::Url),
        ("no path", with(".com/?", ".com?"), Fault::Url),
        ("no query", format!("https://{host}/"), Fault::Url),
        ("an empty text", String::new(), Fault::Url),
    ];
    for (what, url, fault) in cases {
        assert_eq!(read(&url), Err(fault), "{what}");
    }
}

#[test]
fn hostile_parameters_are_refused() {
    let end = |more: &str| format!("{}{more}", stock());
    let cases = [
        ("another action", with("GetCallerIdentity", "GetSessionToken"), Fault::Value("Action")),
        (
            "an action in small letters",
            with("GetCallerIdentity", "getcalleridentity"),
            Fault::Value("Action"),
        ),
        (
            "an escaped action that differs",
            with("GetCallerIdentity", "GetCallerIdentity%20"),
            Fault::Value("Action"),
        ),
        ("no action", without("Action"), Fault::Missing("Action")),
        ("two actions", end("&Action=GetCallerIdentity"), Fault::Doubled("Action")),
        ("a second action in small letters", end("&action=AssumeRole"), Fault::Unknown),
        ("an action in small letters alone", with("?Action=", "?action="), Fault::Unknown),
        ("an escaped name", with("?Action=", "?%41ction="), Fault::Unknown),
        ("another version", with("2011-06-15", "2010-05-08"), Fault::Value("Version")),
        ("no version", without("Version"), Fault::Missing("Version")),
        (
            "another algorithm",
            with("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
            Fault::Value("X-Amz-Algorithm"),
        ),
        ("no algorithm", without("X-Amz-Algorithm"), Fault::Missing("X-Amz-Algorithm")),
        ("a parameter that does not belong", end("&DurationSeconds=1"), Fault::Unknown),
        ("a role to assume", end("&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx"), Fault::Unknown),
        ("a parameter without a name", end("&=x"), Fault::Unknown),
        ("a parameter without a value", end("&X"), Fault::Unknown),
        ("an empty parameter", end("&"), Fault::Unknown),
        ("an empty parameter in between", with("&Version", "&&Version"), Fault::Unknown),
        ("a semicolon between", with("&Version", ";Version"), Fault::Value("Action")),
        ("the cluster's name as a parameter", end("&x-k8s-aws-id=sallyport.hub"), Fault::Unknown),
        ("a fragment", end("#x"), Fault::Value("X-Amz-Signature")),
        ("two signatures", end(&format!("&X-Amz-Signature={SIGNATURE}")), Fault::Doubled("X-Amz-Signature")),
        ("two dates", end("&X-Amz-Date=20261121T170831Z"), Fault::Doubled("X-Amz-Date")),
        ("two tokens", end("&X-Amz-Security-Token=b"), Fault::Doubled("X-Amz-Security-Token")),
        ("a short signature", with(SIGNATURE, "1ba96f"), Fault::Value("X-Amz-Signature")),
        (
            "a signature in capitals",
            with(SIGNATURE, &SIGNATURE.to_uppercase()),
            Fault::Value("X-Amz-Signature"),
        ),
        ("an empty signature", with(SIGNATURE, ""), Fault::Value("X-Amz-Signature")),
        ("no signature", without("X-Amz-Signature"), Fault::Missing("X-Amz-Signature")),
        ("no date", without("X-Amz-Date"), Fault::Missing("X-Amz-Date")),
        ("no such day", stock().replace("20261121", "20261131"), Fault::Value("X-Amz-Date")),
        (
            "another form of date",
            with("20261121T170831Z", "2026-11-21T17:08:31Z"),
            Fault::Value("X-Amz-Date"),
        ),
        ("a second of one digit", with("20261121T170831Z", "20261121T17083Z"), Fault::Value("X-Amz-Date")),
        ("a date without a zone", with("20261121T170831Z", "20261121T170831"), Fault::Value("X-Amz-Date")),
        ("no lifetime", without("X-Amz-Expires"), Fault::Missing("X-Amz-Expires")),
        ("no time to live", with("Expires=60", "Expires=0"), Fault::Value("X-Amz-Expires")),
        ("more than fifteen minutes", with("Expires=60", "Expires=901"), Fault::Value("X-Amz-Expires")),
        ("a week", with("Expires=60", "Expires=604800"), Fault::Value("X-Amz-Expires")),
        ("less than nothing", with("Expires=60", "Expires=-60"), Fault::Value("X-Amz-Expires")),
        ("a plus", with("Expires=60", "Expires=%2B60"), Fault::Value("X-Amz-Expires")),
        ("a zero before", with("Expires=60", "Expires=060"), Fault::Value("X-Amz-Expires")),
        ("no number", with("Expires=60", "Expires=1e2"), Fault::Value("X-Amz-Expires")),
        ("the host alone signed", with("host%3Bx-k8s-aws-id", "host"), Fault::SignedHeaders),
        ("the name alone signed", with("host%3Bx-k8s-aws-id", "x-k8s-aws-id"), Fault::SignedHeaders),
        (
            "another header signed",
            with("host%3Bx-k8s-aws-id", "host%3Bx-k8s-aws-id%3Bx-evil"),
            Fault::SignedHeaders,
        ),
        (
            "a header between",
            with("host%3Bx-k8s-aws-id", "host%3Bx-amz-date%3Bx-k8s-aws-id"),
            Fault::SignedHeaders,
        ),
        ("headers in capitals", with("host%3Bx-k8s-aws-id", "Host%3BX-K8s-Aws-Id"), Fault::SignedHeaders),
        ("a name that only begins so", with("x-k8s-aws-id", "x-k8s-aws-id2"), Fault::SignedHeaders),
        ("no signed headers", without("X-Amz-SignedHeaders"), Fault::Missing("X-Amz-SignedHeaders")),
        ("no credential", without("X-Amz-Credential"), Fault::Missing("X-Amz-Credential")),
        ("a credential of another region", with("%2Fus-east-1%2F", "%2Feu-west-1%2F"), Fault::Scope),
        ("a credential of another service", with("%2Fsts%2F", "%2Fs3%2F"), Fault::Scope),
        ("a credential of another day", with("%2F20261121%2F", "%2F20261120%2F"), Fault::Scope),
        ("a longer scope", with("aws4_request", "aws4_request%2Fx"), Fault::Scope),
        ("no scope", with("%2F20261121%2Fus-east-1%2Fsts%2Faws4_request", ""), Fault::Scope),
        ("no access key", with("ASIAEXAMPLE000000000", ""), Fault::Value("X-Amz-Credential")),
        (
            "an access key of other letters",
            with("ASIAEXAMPLE000000000", "ASIAEXAMPLE00000000%21"),
            Fault::Value("X-Amz-Credential"),
        ),
        (
            "a longer access key than any",
            with("ASIAEXAMPLE000000000", &"A".repeat(129)),
            Fault::Value("X-Amz-Credential"),
        ),
        ("slashes as they are", with("%2F20261121%2F", "/20261121/"), Fault::Value("X-Amz-Credential")),
        (
            "a line break in a value",
            with("aa%2B", "aa%0D%0AHost:%20evil%2B"),
            Fault::Value("X-Amz-Security-Token"),
        ),
        ("an escaped line break", with("aa%2B", "aa%0D%0A"), Fault::Value("X-Amz-Security-Token")),
        ("an escaped NUL", with("aa%2B", "aa%00"), Fault::Value("X-Amz-Security-Token")),
        ("an escaped letter outside ASCII", with("aa%2B", "aa%C3%A9"), Fault::Value("X-Amz-Security-Token")),
        ("an escape cut short", with("%3D%3D", "%3D%3"), Fault::Value("X-Amz-Security-Token")),
        ("no escape", with("%3D%3D", "%3D%zz"), Fault::Value("X-Amz-Security-Token")),
        ("an escape with a sign", with("%3D%3D", "%3D%+3"), Fault::Value("X-Amz-Security-Token")),
        ("a plus as it is", with("aa%2B", "aa+"), Fault::Value("X-Amz-Security-Token")),
        (
            "another parameter inside a value",
            with("aa%2B", "aa%26Action%3DX"),
            Fault::Value("X-Amz-Security-Token"),
        ),
        ("an empty token", with("aa%2B%2F%3D%3D", ""), Fault::Value("X-Amz-Security-Token")),
        ("a second equals sign", with("Version=", "Version=="), Fault::Value("Version")),
    ];
    for (what, url, fault) in cases {
        assert_eq!(read(&url), Err(fault), "{what}");
    }
}

#[test]
fn damaged_tokens_are_refused() {
    let good = token(&stock());
    let hosts = Hosts::default();
    let cases = [
        ("no prefix", good.trim_start_matches(PREFIX).to_owned(), Fault::Encoding),
        ("another version", good.replacen("v1", "v2", 1), Fault::Encoding),
        ("nothing", PREFIX.to_owned(), Fault::Url),
        ("padding", format!("{good}=="), Fault::Encoding),
        ("the other alphabet", format!("{PREFIX}+/+/"), Fault::Encoding),
        ("one letter too few for base64", format!("{PREFIX}aHR0c"), Fault::Encoding),
        ("bits after the end", format!("{PREFIX}aHR0cHN="), Fault::Encoding),
        ("a dot behind", format!("{good}."), Fault::Encoding),
        ("no UTF-8", format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([0xff, 0xfe])), Fault::Url),
        ("too long", token(&format!("{}{}", stock(), "a".repeat(8 * 1024))), Fault::TooLong),
    ];
    for (what, token, fault) in cases {
        assert_eq!(Presigned::read(&token, &hosts), Err(fault), "{what}");
    }
    for cut in PREFIX.len()..good.len() {
        let cut = good.get(..cut).expect("ASCII");
        assert!(Presigned::read(cut, &hosts).is_err(), "a token cut to {} was read", cut.len());
    }
}

#[test]
fn f16_fifteen_minutes_and_no_more_than_five_ahead() {
    let presigned = read(&stock()).expect("read");
    let at = |time: &str| presigned.check_time(time.parse().expect("a time"));
    assert_eq!(at("2026-11-21T17:08:31Z"), Ok(()));
    assert_eq!(at("2026-11-21T17:23:30Z"), Ok(()), "one second before the end");
    assert_eq!(at("2026-11-21T17:23:31Z"), Err(Fault::Expired));
    assert_eq!(at("2026-11-22T17:08:31Z"), Err(Fault::Expired));
    assert_eq!(at("2026-11-21T17:03:31Z"), Ok(()), "five minutes ahead");
    assert_eq!(at("2026-11-21T17:03:30Z"), Err(Fault::Future));
    assert_eq!(at("2026-11-21T16:58:31Z"), Err(Fault::Future), "ten minutes ahead");
}
