// scratch
use hickory_server::{Server, zone_handler::Catalog};
fn resident() -> i64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
fn main() {
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async {
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let before = resident();
        let mut v = vec![];
        let mut a = vec![];
        for _ in 0..100 {
            let mut s = Server::new(Catalog::new());
            let u = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            a.push(u.local_addr().unwrap());
            s.register_socket(u);
            s.register_listener(
                tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
                std::time::Duration::from_secs(10),
                32,
            );
            v.push(s);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        println!("idle {}", resident() - before);
        let q = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x02c7\0\0\x01\0\x01";
        let mut b = [0; 512];
        for x in &a {
            for _ in 0..10 {
                client.send_to(q, x).await.unwrap();
                client.recv_from(&mut b).await.unwrap();
            }
        }
        println!("asked {}", resident() - before);
        // broken reply
        let broken = b"\x12\x34\x81\x00\0\x01\0\0\0\0\0\0\xff\xff";
        client.send_to(broken, a[0]).await.unwrap();
        let r =
            tokio::time::timeout(std::time::Duration::from_secs(1), client.recv_from(&mut b)).await;
        println!(
            "broken reply answered: {:?}",
            r.map(|r| r.map(|(n, _)| b[..n].to_vec()))
        );
    });
}
