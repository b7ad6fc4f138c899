//! The hosts of STS, and the region that each signs for. A token may name no other host: whoever it names is asked who the
//! bearer is.

/// Regions of the standard partition and of GovCloud: `sts.<region>.amazonaws.com`.
const REGIONS: [&str; 36] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];
/// Regions with an endpoint of their own for FIPS: `sts-fips.<region>.amazonaws.com`. In GovCloud every one is FIPS.
const FIPS: [&str; 4] = ["us-east-1", "us-east-2", "us-west-1", "us-west-2"];
/// Regions of China: `sts.<region>.amazonaws.com.cn`.
const CHINA: [&str; 2] = ["cn-north-1", "cn-northwest-1"];
/// The host without a region, which signs for this one.
const GLOBAL: (&str, &str) = ("sts.amazonaws.com", "us-east-1");

/// Which hosts are STS.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    only: Vec<String>,
}

impl Hosts {
    /// These alone; with none, every endpoint of AWS's public partitions.
    pub fn new(only: Vec<String>) -> Self {
        Self { only }
    }

    /// The region that a host signs for; `None` for a host that is not STS. Exact, byte by byte.
    pub fn region<'a>(&self, host: &'a str) -> Option<&'a str> {
        if self.only.is_empty() {
            public(host)
        } else {
            self.only.iter().any(|one| one == host).then(|| named(host))
        }
    }
}

fn public(host: &str) -> Option<&str> {
    if host == GLOBAL.0 {
        return Some(GLOBAL.1);
    }
    let (service, rest) = host.split_once('.')?;
    let (region, domain) = rest.split_once('.')?;
    let is_known = match (service, domain) {
        ("sts", "amazonaws.com") => REGIONS.contains(&region),
        ("sts-fips", "amazonaws.com") => FIPS.contains(&region),
        ("sts", "amazonaws.com.cn") => CHINA.contains(&region),
        _ => false,
    };
    is_known.then_some(region)
}

// The second label of a host that an administrator listed; AWS names no STS otherwise.
fn named(host: &str) -> &str {
    if host == GLOBAL.0 { GLOBAL.1 } else { host.split('.').nth(1).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_hosts_are_known_and_no_other() {
        let all = Hosts::default();
        for (host, region) in [
            ("sts.amazonaws.com", "us-east-1"),
            ("sts.us-east-1.amazonaws.com", "us-east-1"),
            ("sts.eu-west-1.amazonaws.com", "eu-west-1"),
            ("sts-fips.us-west-2.amazonaws.com", "us-west-2"),
            ("sts.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ] {
            assert_eq!(all.region(host), Some(region), "{host}");
        }
        for host in [
            "",
            "sts",
            "amazonaws.com",
            "STS.amazonaws.com",
            "sts.amazonaws.com.",
            "sts.amazonaws.com.evil.example",
            "sts.us-east-1.amazonaws.com.evil.example",
            "sts.evil.amazonaws.com",
            "sts.s3-us-west-2.amazonaws.com",
            "sts.us-east-1.amazonaws.com.cn",
            "sts.cn-north-1.amazonaws.com",
            "sts-fips.eu-west-1.amazonaws.com",
            "evil.sts.us-east-1.amazonaws.com",
            "sts.us-east-1.evil.amazonaws.com",
            "stsXus-east-1.amazonaws.com",
            "iam.amazonaws.com",
        ] {
            assert_eq!(all.region(host), None, "{host}");
        }
    }

    #[test]
    fn a_list_replaces_the_public_hosts() {
        let one = Hosts::new(vec!["sts.xx-new-1.amazonaws.com".to_owned()]);
        assert_eq!(one.region("sts.xx-new-1.amazonaws.com"), Some("xx-new-1"));
        assert_eq!(one.region("sts.amazonaws.com"), None);
        let global = Hosts::new(vec!["sts.amazonaws.com".to_owned()]);
        assert_eq!(global.region("sts.amazonaws.com"), Some("us-east-1"));
    }
}
