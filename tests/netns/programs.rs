//! Real programs inside, talking to real programs outside, and the other way.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use passt_tests::transfer::{MIB, at};
use passt_tests::{
    FAR4, FAR6, Guest, HOST4, Net, Place, Process, User, eventually, find_program, have, stream,
};

fn start(net: &Net, options: &str) -> Guest {
    net.pasta(User::Normal).with("--config-net -T none -U none").with(options).start()
}

/// Waits until something accepts connections.
fn wait_for_server(place: &impl Place, address: &str) {
    eventually(&format!("a server at {address}"), || {
        place.peer(&format!("connect {address}")).starts_with("connected").then_some(())
    });
}

/// A file of known content.
fn write_file(path: &Path, length: u64) {
    let mut file = std::fs::File::create(path).expect("a file");
    let write = |bytes: &[u8]| std::io::Write::write_all(&mut file, bytes);
    stream::Stream::new(7).take(length, write).expect("disk space");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("own file");
}

fn sha256(place: &impl Place, path: &Path) -> String {
    place.run(&format!("sha256sum {}", path.display())).split_whitespace().next().unwrap_or("").to_owned()
}

/// nginx in the foreground, one process, serving `file` of the test's directory.
fn nginx(net: &Net, place: &impl Place, addresses: &[String]) -> Process {
    let dir = net.dir().display();
    let listen: String = addresses.iter().flat_map(|address| ["listen ", address, "; "]).collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind}; "))
        .concat();
    let config = format!(
        "daemon off; master_process off; user root; pid {dir}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; {temporary} server {{ {listen} root {dir}/www; }} }}\n"
    );
    std::fs::create_dir_all(net.dir().join("www")).expect("directory");
    write_file(&net.dir().join("www/file"), 50 * MIB);
    write_file(&net.dir().join("www/small"), 1000);
    std::fs::write(net.dir().join("nginx.conf"), config).expect("configuration");
    let server = place.start(&format!("nginx -e stderr -c {dir}/nginx.conf"));
    wait_for_server(place, &addresses[0]);
    server
}

#[test]
fn curl() {
    let Some(net) = Net::new() else { return };
    if !have(&["curl", "nginx"]) {
        return;
    }
    let _server = nginx(&net, &net.peer, &[at(FAR4, 8080), at(FAR6, 8080)]);
    let guest = start(&net, "-t none -u none");
    let expected = sha256(&net.host, &net.dir().join("www/file"));
    for address in [FAR4, FAR6] {
        let file = net.dir().join(format!("from-{address}"));
        guest.run(&format!("curl -sS -f -o {} http://{}/file", file.display(), at(address, 8080)));
        assert_eq!(sha256(&net.host, &file), expected, "{address}");
    }
}

/// Runs wrk for 2 s with 50 connections; every request must be answered.
fn wrk(place: &impl Place, address: &str) {
    let out = place.run(&format!("wrk -t 2 -c 50 -d 2s http://{address}/small"));
    let failed = out.contains("Socket errors") || out.contains("Non-2xx");
    assert!(out.contains("requests in") && !failed, "{out}");
}

#[test]
fn wrk_inside_nginx_outside() {
    let Some(net) = Net::new() else { return };
    if !have(&["nginx", "wrk"]) {
        return;
    }
    let _server = nginx(&net, &net.peer, &[at(FAR4, 8080), at(FAR6, 8080)]);
    let guest = start(&net, "-t none -u none");
    wrk(&guest, &at(FAR4, 8080));
    wrk(&guest, &at(FAR6, 8080));
}

#[test]
fn nginx_inside_wrk_outside() {
    let Some(net) = Net::new() else { return };
    if !have(&["nginx", "wrk"]) {
        return;
    }
    let guest = start(&net, "-t 8080 -u none");
    let _server = nginx(&net, &guest, &["0.0.0.0:8080".to_owned()]);
    wrk(&net.peer, &at(HOST4, 8080));
}

#[test]
fn ssh_and_scp() {
    let Some(net) = Net::new() else { return };
    if !have(&["ssh", "scp", "ssh-keygen", "sshd"]) {
        return;
    }
    let dir = net.dir().display();
    for name in ["host_key", "user_key"] {
        let mut command = net.host.command("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(net.dir().join(name));
        Process::start(&mut command).succeed();
    }
    chown(net.dir().join("user_key"), Some(User::NORMAL_ID), None).expect("owner of the key");
    // Where sshd puts its unprivileged part, a directory of its package's service.
    std::fs::create_dir_all("/run/sshd").expect("/run/sshd");
    let config = format!(
        "ListenAddress {FAR4}\nPort 2222\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/user_key.pub\n\
         PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    );
    std::fs::write(net.dir().join("sshd_config"), config).expect("configuration");
    let sshd = find_program("sshd").expect("sshd");
    let mut server = net.peer.start(&format!("{} -D -e -f {dir}/sshd_config", sshd.display()));
    server.wait_for("listening");

    let guest = start(&net, "-t none -u none");
    let options = format!(
        "-F /dev/null -i {dir}/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    );
    let out = guest.run(&format!("ssh {options} -p 2222 root@{FAR4} echo greetings"));
    assert_eq!(out.trim(), "greetings");
    write_file(&net.dir().join("original"), 50 * MIB);
    guest.run(&format!("scp -q {options} -P 2222 {dir}/original root@{FAR4}:{dir}/sent"));
    guest.run(&format!("scp -q {options} -P 2222 root@{FAR4}:{dir}/sent {dir}/fetched"));
    let sum = |name: &str| sha256(&net.host, &net.dir().join(name));
    assert_eq!([sum("sent"), sum("fetched")], [sum("original"), sum("original")]);
}

/// redis-benchmark with 50 connections, also with requests queued.
fn redis_benchmark(place: &impl Place, address: &str) {
    for pipeline in [1, 16] {
        let line =
            format!("redis-benchmark -h {address} -p 6379 -n 10000 -c 50 -P {pipeline} -q -t set,get,lpush");
        let out = place.start(&line).succeed_within(Duration::from_secs(90));
        assert_eq!(out.matches("requests per second").count(), 3, "{out}");
    }
}

fn redis_server(net: &Net, place: &impl Place, address: &str) -> Process {
    let options = format!("--port 6379 --protected-mode no --dir {}", net.dir().display());
    let server = place.start(&format!("redis-server --bind {address} {options}"));
    wait_for_server(place, &at(address, 6379));
    server
}

#[test]
fn redis_benchmark_inside_server_outside() {
    let Some(net) = Net::new() else { return };
    if !have(&["redis-server", "redis-benchmark"]) {
        return;
    }
    let _server = redis_server(&net, &net.peer, FAR4);
    redis_benchmark(&start(&net, "-t none -u none"), FAR4);
}

#[test]
fn redis_server_inside_benchmark_outside() {
    let Some(net) = Net::new() else { return };
    if !have(&["redis-server", "redis-benchmark"]) {
        return;
    }
    let guest = start(&net, "-t 6379 -u none");
    let _server = redis_server(&net, &guest, HOST4);
    redis_benchmark(&net.peer, HOST4);
}

#[test]
fn dig_by_udp_and_tcp() {
    let Some(net) = Net::new() else { return };
    if !have(&["dig", "dnsmasq"]) {
        return;
    }
    let mut server = net.peer.start(&format!(
        "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts --user=root \
         --pid-file= --bind-interfaces --listen-address={FAR4},{FAR6} --address=/example.test/203.0.113.7"
    ));
    server.wait_for("started");
    let guest = start(&net, "-t none -u none");
    for resolver in [FAR4, FAR6] {
        for transport in ["+notcp", "+tcp"] {
            let out = guest.run(&format!("dig +short +tries=1 +time=3 {transport} @{resolver} example.test"));
            assert_eq!(out.trim(), "203.0.113.7", "{resolver} {transport}");
        }
    }
}
