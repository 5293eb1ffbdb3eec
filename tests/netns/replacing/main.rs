//! `docs/replacing.md` done as it stands there: the programs are installed by its lines, those that
//! start them are told by its files, and it is seen by its commands which one is in use.
//!
//! Podman, Buildah, `RootlessKit` and libvirt are those of Debian's present release ([`Starters`]).
//! What is not done: rootless Docker, which needs a user's service manager and hands its options to
//! `RootlessKit`; Podman as root, which refuses pasta; `KubeVirt`, whose image is in a registry of
//! the Internet. QEMU's own `-netdev passt` is in `vm`.

mod kit;
mod slirp4netns;
mod vpnkit;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, HOST4, MAC, Net, Place as _, Process, Starters, User, Vm, eventually, have};

/// What Debian's package has, and what is installed beside it.
const THEIRS: &str = "/usr/bin/pasta";
const OURS: &str = "/usr/local/bin/pasta";

/// The indented blocks of a section of the document, in their order; `""` is what comes before any.
fn blocks(section: &str) -> Vec<String> {
    let document = include_str!("../../../docs/replacing.md");
    let (first, rest) = document.split_once("\n## ").expect("sections");
    let mut sections = rest.split("\n## ");
    let text = if section.is_empty() {
        first
    } else {
        sections.find(|text| text.starts_with(section)).expect("the section")
    };
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        let last = blocks.last_mut().expect("never empty");
        match line.strip_prefix("    ") {
            Some(line) => last.extend([line, "\n"]),
            // An empty line may be inside.
            None if line.is_empty() && !last.is_empty() => last.push('\n'),
            None if last.is_empty() => {}
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The options of a line of the document that begins with `rootlesskit`.
fn options_of(line: &str) -> &str {
    let options = line.trim().strip_prefix("rootlesskit ").and_then(|line| line.strip_suffix(" ..."));
    options.expect("options")
}

/// Runs a line of the document that begins with `cargo`, for programs below `root`.
fn cargo(line: &str, root: &Path) {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("cargo"), "{line}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).arg("--root").arg(root);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"));
    // What the release build has made is taken, as its dependencies are: no network is needed.
    command.env("CARGO_NET_OFFLINE", "true");
    Process::start(&mut command).succeed_within(Duration::from_mins(20));
}

/// Where the programs are, installed once by the document's line, unless they are already: below
/// the directory that the environment names, as in `INSTALLED=/usr/local`.
fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if let Some(root) = std::env::var_os("INSTALLED") {
            return root.into();
        }
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
        let lines = &blocks("")[0];
        cargo(lines.lines().next().expect("a line"), &root);
        root
    })
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// All programs are installed, run, and go again.
#[test]
fn cargo_installs_all_programs_and_removes_them() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("installed-{}", std::process::id()));
    let lines = blocks("")[0].clone();
    let mut lines = lines.lines();
    let own = lines.next().expect("for oneself");
    assert_eq!(lines.next(), Some(format!("sudo {own} --root /usr/local").as_str()), "for everybody");
    cargo(own, &root);
    let bin = root.join("bin");
    let programs = ["passt", "pasta", "qrap", "slirp4netns", "vpnkit"];
    assert_eq!(names(&bin), programs.map(str::to_owned).into());
    for name in ["passt", "pasta"] {
        let version = Process::start(Command::new(bin.join(name)).arg("--version")).succeed();
        let expected = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert!(version.starts_with(&expected), "{version}");
    }
    let usage = Process::start(&mut Command::new(bin.join("qrap"))).finish();
    assert!(usage.stderr.contains("Usage: qrap"), "{usage:?}");
    let lines = blocks("To go back")[0].clone();
    let (own, all) = lines.trim().split_once('\n').expect("two lines");
    assert_eq!(all, format!("sudo {own} --root /usr/local"));
    cargo(own, &root);
    assert_eq!(names(&bin), BTreeSet::new());
    fs::remove_dir_all(root).expect("removed");
}

/// What tests have in common: starters, a web server and a resolver in the peer, and an image.
struct Site<'n> {
    starters: Starters<'n>,
    _servers: [Process; 2],
}

impl<'n> Site<'n> {
    fn new(net: &'n Net) -> Option<Self> {
        if !have(&["dnsmasq"]) {
            return None;
        }
        net.host.resolv_conf(&format!("nameserver {FAR4}\n"));
        let starters = Starters::new(net, installed())?;
        let dir = net.dir().display();
        fs::create_dir_all(net.dir().join("www")).expect("a directory");
        fs::write(net.dir().join("www/index.html"), "from the peer\n").expect("a page");
        let busybox = starters.busybox();
        let web = net.peer.start(&format!("{} httpd -f -p {FAR4}:80 -h {dir}/www", busybox.display()));
        let mut resolver = net.peer.start(&format!(
            "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
             --user=root --pid-file= --bind-interfaces --listen-address={FAR4} --address=/example.test/{FAR4}"
        ));
        resolver.wait_for("started");
        Some(Self { starters, _servers: [web, resolver] })
    }

    /// Makes an image, `box`, of busybox and a page.
    fn make_image(&self) {
        self.starters.sh("mkdir -p rootfs/bin rootfs/www .config/containers; cp /usr/bin/busybox rootfs/bin
             for name in cat grep head httpd ip sed sh sha256sum sleep tr wget; do ln -s busybox rootfs/bin/$name; done
             echo from the container >rootfs/www/index.html
             tar -C rootfs -c . | podman import -q - box");
    }

    /// Writes the user's `containers.conf`.
    fn configure(&self, text: &str) {
        self.starters.sh(&format!("cat >.config/containers/containers.conf <<'END'\n{text}END\n"));
    }

    /// Starts the container `web` anew, and requires that its port answers, and that it reaches a
    /// server by name: by way of this program.
    fn serve(&self, net: &Net, program: &str) {
        self.starters.sh("podman start web");
        assert_in_use(&self.starters, program);
        let busybox = self.starters.busybox();
        eventually("the container's page", || {
            let page = net.peer.start(&format!("{} wget -qO- http://{HOST4}:8080/", busybox.display()));
            let page = page.finish();
            page.status.success().then(|| assert_eq!(page.stdout, "from the container\n"))
        });
        let page = self.starters.sh("podman exec web wget -qO- http://example.test/");
        assert_eq!(page, "from the peer\n");
    }

    fn stop(&self) {
        self.starters.sh("podman stop -t 0 web");
        wait_for_end(&self.starters, "pasta");
    }
}

/// The program that the newest process of passt or pasta runs. The C program's file may lead to
/// one for a kind of CPU.
fn in_use(starters: &Starters<'_>, name: &str) -> Option<String> {
    let [theirs, ours] = ["/usr/bin", "/usr/local/bin"].map(|dir| format!("{dir}/{name}"));
    let found = starters.program_of(name, &[&ours, &theirs, &format!("{theirs}.avx2")])?;
    Some(found.trim_end_matches(".avx2").to_owned())
}

fn assert_in_use(starters: &Starters<'_>, program: &str) {
    let name = program.rsplit('/').next().expect("a name");
    assert_eq!(in_use(starters, name).as_deref(), Some(program));
}

fn wait_for_end(starters: &Starters<'_>, name: &str) {
    eventually("its end", || (!starters.runs(name)).then_some(()));
}

#[test]
fn podman() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let [configuration, see, ..] = &blocks("Podman")[..] else { panic!("blocks") };
    let (see_configured, see_running) = see.trim().split_once('\n').expect("two lines");
    let configured = || site.starters.sh(see_configured).trim().to_owned();
    site.make_image();

    assert_eq!(configured(), THEIRS);
    site.starters.sh("podman create --cgroups=disabled --name web -p 8080:80 box httpd -f -p 80 -h /www");
    site.serve(&net, THEIRS);

    site.configure(configuration);
    assert_eq!(configured(), OURS);
    // What runs keeps what it has.
    assert_in_use(&site.starters, THEIRS);
    site.stop();
    site.serve(&net, OURS);
    let seen = site.starters.sh(see_running);
    assert!(seen.trim().ends_with(&format!("-> {OURS}")), "{seen}");
    site.stop();

    site.configure("");
    assert_eq!(configured(), THEIRS);
    site.serve(&net, THEIRS);
    site.stop();

    let run = "podman run --network pasta --rm --cgroups=disabled --rootfs /home/user/rootfs sh";
    let refused = site.starters.sh_as_root(&format!("! {run} 2>&1"));
    assert!(refused.contains("only supported for rootless mode"), "{refused}");
}

/// Has Buildah, which has a network of its own for a step where it is asked for one, do steps with each
/// of these configurations, and see which program of this name serves them.
fn steps_of_buildah(site: &Site<'_>, name: &str, configurations: &[(&str, &str)]) {
    site.make_image();
    site.starters.sh("buildah from --name work box");
    for (text, program) in configurations {
        site.configure(text);
        let run = "buildah run --isolation rootless --network private work --";
        let page = site.starters.sh(&format!("{run} wget -qO- http://example.test/"));
        assert_eq!(page, "from the peer\n", "{program}");
        let _step = site.starters.start_sh(&format!("{run} sleep 5"));
        let found = eventually(name, || in_use(&site.starters, name));
        assert_eq!(found, *program);
        wait_for_end(&site.starters, name);
    }
}

#[test]
fn buildah() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let configuration = &blocks("Podman")[0];
    steps_of_buildah(&site, "pasta", &[("", THEIRS), (configuration, OURS), ("", THEIRS)]);
}

/// By the path that is given, with ports that follow what listens.
#[test]
fn rootlesskit() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let [line, see] = &blocks("RootlessKit")[..2] else { panic!("two blocks") };
    let (told, untold) = (line.trim(), line.replace(&format!("--pasta-binary={OURS} "), ""));
    assert_ne!(told, untold.trim());
    for (line, program) in [(told, OURS), (untold.trim(), THEIRS)] {
        let inside = "wget -qO- http://example.test/; mkdir -p www; echo from inside >www/index.html; \
                      exec busybox httpd -f -p 8080 -h www";
        let line = line.replace("...", &format!("--port-driver=implicit sh -euc '{inside}'"));
        let mut kit = site.starters.start_sh(&line);
        kit.wait_for("from the peer");
        assert_in_use(&site.starters, program);
        if program == OURS {
            let seen = site.starters.sh_as_root(see.trim().trim_start_matches("sudo "));
            assert!(seen.trim().ends_with(&format!("-> {OURS}")), "{seen}");
        }
        let busybox = site.starters.busybox();
        eventually("the page inside", || {
            let page = net.peer.start(&format!("{} wget -qO- http://{HOST4}:8080/", busybox.display()));
            let page = page.finish();
            page.status.success().then(|| assert_eq!(page.stdout, "from inside\n"))
        });
        site.starters.sh("pkill -x rootlesskit");
        wait_for_end(&site.starters, "pasta");
    }
}

/// Has libvirt start a machine with the rest of qemu's arguments, and shows what qemu writes.
const CREATE: &str = r#"
{
    echo "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
    echo "<name>guest</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>"
    cat memory.xml
    echo "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>"
    echo "<emulator>/usr/bin/qemu-system-x86_64</emulator>"
    echo "<controller type='usb' model='none'/><memballoon model='none'/>"
    cat net.xml
    echo "</devices><qemu:commandline>"
    for argument; do
        # libvirt wants the first slots for itself.
        [ "$argument" != virtio-serial-pci ] || argument=$argument,addr=0x1e
        echo "<qemu:arg value='$argument'/>"
    done
    echo "</qemu:commandline></domain>"
} >guest.xml
virsh -q -c qemu:///session create guest.xml
exec tail -f .cache/libvirt/qemu/log/guest.log
"#;

/// The daemon of a user's session, with a path to look for programs in.
fn libvirtd(starters: &Starters<'_>, path: &str) -> Process {
    let daemon = starters.start_sh(&format!("exec env PATH={path} libvirtd"));
    eventually("libvirtd", || {
        // The client would start a daemon of its own, with another path.
        let asked = starters.start_sh("LIBVIRT_AUTOSTART=0 virsh -q -c qemu:///session list").finish();
        asked.status.success().then_some(())
    });
    daemon
}

/// Has libvirt start a machine with an interface of this type that has passt as its back end, and
/// the guest configure it.
fn start_by_libvirt(net: &Net, starters: &Starters<'_>, interface: &str) -> Option<Vm> {
    // Whoever is at the other end has the machine's memory, too.
    let memory = if interface == "vhostuser" {
        "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    } else {
        ""
    };
    starters.sh(&format!(
        "echo \"{memory}\" >memory.xml
         cat >net.xml <<'END'
         <interface type='{interface}'><backend type='passt'/><model type='virtio'/>
         <mac address='{MAC}'/>
         <portForward proto='tcp'><range start='2222' to='5001'/></portForward></interface>
END"
    ));
    // There is no virtlogd.
    starters.sh("mkdir -p .config/libvirt; echo 'stdio_handler = \"file\"' >.config/libvirt/qemu.conf");
    let dir = net.dir().join("guest");
    fs::create_dir(&dir).expect("the machine's directory");
    chown(&dir, Some(User::NORMAL_ID), None).expect("its owner");
    let vm = Vm::boot_in(net, &starters.qemu_through(CREATE), "guest", "")?;
    configure(&vm);
    Some(vm)
}

/// Has the guest get its address.
fn configure(vm: &Vm) {
    vm.run("ip link set eth0 up");
    vm.run("udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /etc/udhcpc");
}

#[test]
fn libvirt() {
    let Some(net) = Net::new() else { return };
    let Some(starters) = Starters::new(&net, installed()) else { return };
    let [unit, see] = &blocks("libvirt")[..] else { panic!("two blocks") };
    let path = unit.lines().find_map(|line| line.strip_prefix("Environment=PATH=")).expect("a path");
    let _server = net.peer.serve(&at(FAR4, 5001));

    let daemon = libvirtd(&starters, path);
    let Some(vm) = start_by_libvirt(&net, &starters, "user") else { return };
    assert_in_use(&starters, "/usr/local/bin/passt");
    let seen = starters.sh_as_root(see.trim().trim_start_matches("sudo "));
    assert!(seen.trim().ends_with("-> /usr/local/bin/passt"), "{seen}");
    exchange(&vm, &at(FAR4, 5001));
    let _inside = vm.serve("[::]:5001");
    exchange(&net.peer, &at(HOST4, 2222));
    starters.sh("virsh -q -c qemu:///session destroy guest");
    wait_for_end(&starters, "passt");
    starters.sh("pkill -x libvirtd");
    daemon.finish();

    let _daemon = libvirtd(&starters, "/usr/sbin:/usr/bin");
    starters.sh("virsh -q -c qemu:///session create guest.xml");
    assert_in_use(&starters, "/usr/bin/passt");
    starters.sh("virsh -q -c qemu:///session destroy guest");
}

/// The other type of interface that has passt as back end shares the machine's memory with it. It
/// ends with the machine, and there is another for the next one.
#[test]
fn libvirt_shares_memory() {
    let Some(net) = Net::new() else { return };
    let Some(starters) = Starters::new(&net, installed()) else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let daemon = libvirtd(&starters, "/usr/local/bin:/usr/sbin:/usr/bin");
    for _ in 0..2 {
        let Some(vm) = start_by_libvirt(&net, &starters, "vhostuser") else { return };
        assert_in_use(&starters, "/usr/local/bin/passt");
        let options = starters.sh_as_root("tr '\\0' ' ' </proc/$(pgrep -n -x passt)/cmdline");
        assert!(options.contains(" --vhost-user "), "{options}");
        exchange(&vm, &at(FAR4, 5001));
        let _inside = vm.serve("[::]:5001");
        exchange(&net.peer, &at(HOST4, 2222));
        starters.sh("virsh -q -c qemu:///session destroy guest");
        wait_for_end(&starters, "passt");
        drop(vm);
        fs::remove_dir_all(net.dir().join("guest")).expect("removed");
    }
    starters.sh("pkill -x libvirtd");
    daemon.finish();
}
