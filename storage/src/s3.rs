//! How a bucket is reached: flags, and the environment that AWS programs know.
use std::time::Duration;

use clap::{Args, ValueEnum};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

/// A request to the store that takes longer has failed; the recorder tries again.
const REQUEST: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);

/// Flags for `s3://` addresses. Credentials come from the environment alone: keys, a web identity (IRSA), EKS Pod Identity, or the
/// instance's own role.
#[derive(Args, Clone, Debug, Default)]
pub struct S3Flags {
    /// URL of an S3 server that is not AWS, such as https://minio.example:9000; http:// is spoken only to one that is named so.
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket. Default: AWS_REGION, then AWS_DEFAULT_REGION, then us-east-1.
    #[arg(long, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Whether the bucket is named in the path and not in the host. Default: only with --s3-endpoint.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub s3_path_style: Option<bool>,
    /// Checksum that travels with every upload; a bucket with Object Lock takes none without.
    #[arg(long, value_enum, default_value_t = Checksum::Sha256, value_name = "ALGORITHM")]
    pub s3_checksum: Checksum,
    /// ARN of the KMS key that objects are encrypted with. Default: what the bucket says.
    #[arg(long, env = "SALLYPORT_S3_KMS_KEY", value_name = "ARN")]
    pub s3_kms_key: Option<String>,
}

/// A checksum of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Checksum {
    /// SHA-256.
    #[default]
    Sha256,
    /// CRC-64/NVME.
    Crc64nvme,
    /// None, for servers that refuse the header.
    None,
}

impl S3Flags {
    /// A client of this bucket. Asks nobody yet.
    pub(crate) fn client(&self, bucket: &str) -> Result<AmazonS3, object_store::Error> {
        self.builder(AmazonS3Builder::from_env(), bucket).build()
    }

    fn builder(&self, from: AmazonS3Builder, bucket: &str) -> AmazonS3Builder {
        let given = self.s3_endpoint.clone().filter(|endpoint| !endpoint.is_empty());
        let endpoint = given
            .or_else(|| from.get_config_value(&AmazonS3ConfigKey::S3Endpoint))
            .or_else(|| from.get_config_value(&AmazonS3ConfigKey::Endpoint));
        let path_style = self.s3_path_style.unwrap_or(endpoint.is_some());
        let plain = endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
        let options =
            ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT).with_allow_http(plain);
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), ..BackoffConfig::default() };
        let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: REQUEST };
        let mut builder = from
            .with_client_options(options)
            .with_retry(retry)
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(!path_style)
            // What the environment says of these would switch off what the recorder relies on.
            .with_config(AmazonS3ConfigKey::ConditionalPut, "etag")
            .with_unsigned_payload(false)
            .with_skip_signature(false);
        if let Some(url) = endpoint {
            builder =
                builder.with_config(AmazonS3ConfigKey::S3Endpoint, host_style(&url, bucket, path_style));
        }
        if let Some(region) = &self.s3_region {
            builder = builder.with_region(region);
        }
        builder = match self.s3_checksum {
            Checksum::Sha256 => builder.with_checksum_algorithm(object_store::aws::Checksum::SHA256),
            Checksum::Crc64nvme => builder.with_checksum_algorithm(object_store::aws::Checksum::CRC64NVME),
            Checksum::None => builder,
        };
        match &self.s3_kms_key {
            Some(key) if !key.is_empty() => builder.with_sse_kms_encryption(key).with_bucket_key(true),
            Some(_) | None => builder,
        }
    }
}

/// The endpoint as the client wants it: with the bucket in its host where that is the style.
fn host_style(url: &str, bucket: &str, path_style: bool) -> String {
    match url.split_once("://") {
        Some((scheme, host)) if !path_style => format!("{scheme}://{bucket}.{host}"),
        Some(_) | None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        s3: S3Flags,
    }

    fn built(args: &[&str], environment: &[(AmazonS3ConfigKey, &str)]) -> AmazonS3Builder {
        let flags = Program::try_parse_from(std::iter::once(&"x").chain(args)).unwrap().s3;
        let from = environment
            .iter()
            .fold(AmazonS3Builder::new(), |from, (key, value)| from.with_config(*key, *value));
        flags.builder(from, "acme")
    }

    fn value(builder: &AmazonS3Builder, key: AmazonS3ConfigKey) -> String {
        builder.get_config_value(&key).unwrap_or_default()
    }

    #[test]
    fn aws_is_asked_by_host_and_others_by_path_unless_told() {
        use AmazonS3ConfigKey::{S3Endpoint, VirtualHostedStyleRequest};
        assert_eq!(value(&built(&[], &[]), VirtualHostedStyleRequest), "true");
        let minio = built(&["--s3-endpoint", "https://minio:9000"], &[]);
        assert_eq!(value(&minio, VirtualHostedStyleRequest), "false");
        assert_eq!(value(&minio, S3Endpoint), "https://minio:9000");
        let by_host = built(&["--s3-endpoint", "https://s3.example", "--s3-path-style=false"], &[]);
        assert_eq!(value(&by_host, S3Endpoint), "https://acme.s3.example");
    }

    #[test]
    fn plain_http_is_spoken_only_to_an_endpoint_that_is_named_so() {
        let allowed = AmazonS3ConfigKey::Client(object_store::ClientConfigKey::AllowHttp);
        assert_eq!(value(&built(&["--s3-endpoint", "http://127.0.0.1:7070"], &[]), allowed), "true");
        for args in [&[][..], &["--s3-endpoint", "https://minio:9000"]] {
            assert_eq!(value(&built(args, &[(allowed, "true")]), allowed), "false", "{args:?}");
        }
    }

    #[test]
    fn the_environment_cannot_switch_off_what_the_recorder_relies_on() {
        use AmazonS3ConfigKey::{ConditionalPut, SkipSignature, UnsignedPayload};
        let hostile = [(ConditionalPut, "disabled"), (SkipSignature, "true"), (UnsignedPayload, "true")];
        let builder = built(&[], &hostile);
        assert_eq!(value(&builder, ConditionalPut), "etag");
        assert_eq!(value(&builder, SkipSignature), "false");
        assert_eq!(value(&builder, UnsignedPayload), "false");
    }

    #[test]
    fn uploads_carry_sha256_unless_told_otherwise() {
        assert_eq!(value(&built(&[], &[]), AmazonS3ConfigKey::Checksum).to_lowercase(), "sha256");
        assert_eq!(value(&built(&["--s3-checksum", "none"], &[]), AmazonS3ConfigKey::Checksum), "");
    }
}
