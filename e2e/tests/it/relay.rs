//! The relay that tests put between a proxy and the API server.

use std::time::Duration;

use e2e::relay::Relay;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const A_MOMENT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(10);

async fn echo() -> anyhow::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_relay_stalls_resumes_and_cuts() -> anyhow::Result<()> {
    let relay = Relay::start(echo().await?)?;
    let mut client = TcpStream::connect(("127.0.0.1", relay.port())).await?;
    let mut byte = [0];
    for stall in [Relay::stall_requests, Relay::stall_answers, Relay::stall] {
        client.write_all(b"a").await?;
        timeout(LONG, client.read_exact(&mut byte)).await??;
        stall(&relay);
        client.write_all(b"b").await?;
        assert!(
            timeout(A_MOMENT, client.read_exact(&mut byte)).await.is_err(),
            "a stalled relay let a byte through"
        );
        relay.flow();
        timeout(LONG, client.read_exact(&mut byte)).await??;
        assert_eq!(&byte, b"b");
    }
    relay.cut();
    assert!(
        !matches!(timeout(LONG, client.read(&mut byte)).await?, Ok(1..)),
        "a cut connection still speaks"
    );
    let mut fresh = TcpStream::connect(("127.0.0.1", relay.port())).await?;
    fresh.write_all(b"c").await?;
    timeout(LONG, fresh.read_exact(&mut byte)).await??;
    Ok(())
}
