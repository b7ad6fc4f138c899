//! ARNs of IAM roles: one form for one role, whatever path, case or session it is written with.

/// A session of a role, as STS names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssumedRole {
    /// The role, in the form of [`role`].
    pub role: String,
    /// The account, 12 digits.
    pub account: String,
    /// The session's name: whoever assumes the role chooses it, so it proves nothing (D09).
    pub session: String,
}

/// The one form of a role's ARN: without the path, which sessions do not show, and in lower case, because IAM tells no two roles
/// of an account apart by case and STS repeats the case that the caller wrote (aws-iam-authenticator compares so too).
///
/// `None` for everything that is no role's ARN.
pub fn role(arn: &str) -> Option<String> {
    let (partition, account, resource) = parts(arn, "iam")?;
    let (_path, name) =
        resource.strip_prefix("role/").map(|path| path.rsplit_once('/').unwrap_or(("", path)))?;
    canonical(partition, account, name)
}

/// Reads `arn:<partition>:sts::<account>:assumed-role/<name>/<session>`, as GetCallerIdentity answers; `None` for users, root,
/// federated users and everything else.
pub fn assumed_role(arn: &str) -> Option<AssumedRole> {
    let (partition, account, resource) = parts(arn, "sts")?;
    let (name, session) = resource.strip_prefix("assumed-role/")?.split_once('/')?;
    let is_session = (2..=64).contains(&session.len()) && session.chars().all(is_of_name);
    if !is_session {
        return None;
    }
    let role = canonical(partition, account, name)?;
    Some(AssumedRole { role, account: account.to_owned(), session: session.to_owned() })
}

fn canonical(partition: &str, account: &str, name: &str) -> Option<String> {
    let is_name = (1..=64).contains(&name.len()) && name.chars().all(is_of_name);
    is_name.then(|| format!("arn:{partition}:iam::{account}:role/{}", name.to_ascii_lowercase()))
}

fn parts<'a>(arn: &'a str, of: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let mut fields = arn.splitn(6, ':');
    let mut next = || fields.next();
    let (scheme, partition, service, region, account, resource) =
        (next()?, next()?, next()?, next()?, next()?, next()?);
    let is_partition = partition.strip_prefix("aws").is_some_and(|rest| {
        rest.len() <= 16 && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    });
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    (scheme == "arn" && is_partition && service == of && region.is_empty() && is_account)
        .then_some((partition, account, resource))
}

// IAM's `[\w+=,.@-]`.
fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_one_form() {
        let one = "arn:aws:iam::111122223333:role/claude-code-runner";
        for arn in [
            one,
            "arn:aws:iam::111122223333:role/team/payments/claude-code-runner",
            "arn:aws:iam::111122223333:role/Claude-Code-Runner",
            "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/us-east-1/claude-code-runner",
        ] {
            assert_eq!(role(arn).as_deref(), Some(one), "{arn}");
        }
        let china = "arn:aws-cn:iam::111122223333:role/x";
        assert_eq!(role(china).as_deref(), Some(china));
        for other in [
            "",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/team/",
            "arn:aws:iam::111122223333:user/claude-code-runner",
            "arn:aws:iam::111122223333:root",
            "arn:aws:iam::11112222333:role/x",
            "arn:aws:iam:us-east-1:111122223333:role/x",
            "arn:aws:sts::111122223333:assumed-role/x/session",
            "arn:aws:sts::111122223333:role/x",
            "arn:aws:iam::11112222333x:role/x",
            "arn:azure:iam::111122223333:role/x",
            "arn:awsX:iam::111122223333:role/x",
            "arn:aws-of-a-partition-that-is-none:iam::111122223333:role/x",
            "arn:aws:iam::111122223333:role/x:y",
            "arn:aws:iam::111122223333:role/x y",
            "ARN:aws:iam::111122223333:role/x",
        ] {
            assert_eq!(role(other), None, "{other}");
        }
        let of_length = |length| role(&format!("arn:aws:iam::111122223333:role/{}", "x".repeat(length)));
        assert!(of_length(64).is_some() && of_length(65).is_none());
    }

    #[test]
    fn d09_a_session_is_its_role_and_its_name_is_only_a_name() {
        let found = assumed_role("arn:aws:sts::111122223333:assumed-role/Runner/alice@example.com");
        let expected = AssumedRole {
            role: "arn:aws:iam::111122223333:role/runner".to_owned(),
            account: "111122223333".to_owned(),
            session: "alice@example.com".to_owned(),
        };
        assert_eq!(found, Some(expected));
        for other in [
            "arn:aws:iam::111122223333:user/alice",
            "arn:aws:iam::111122223333:root",
            "arn:aws:iam::111122223333:role/runner",
            "arn:aws:sts::111122223333:federated-user/alice",
            "arn:aws:sts::111122223333:assumed-role/runner",
            "arn:aws:sts::111122223333:assumed-role/runner/",
            "arn:aws:sts::111122223333:assumed-role//session",
            "arn:aws:sts::111122223333:assumed-role/team/runner/session",
            "arn:aws:sts::111122223333:assumed-role/runner/a",
            "arn:aws:sts::111122223333:assumed-role/runner/a\nb",
            "arn:aws:sts::1:assumed-role/runner/session",
            "arn:aws:sts:us-east-1:111122223333:assumed-role/runner/session",
        ] {
            assert_eq!(assumed_role(other), None, "{other}");
        }
        let called = |length| {
            assumed_role(&format!("arn:aws:sts::111122223333:assumed-role/x/{}", "s".repeat(length)))
        };
        assert!(called(64).is_some() && called(65).is_none());
    }
}
