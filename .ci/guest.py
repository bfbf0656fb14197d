"""A virtual machine with Debian, a real kernel and systemd, for `.ci/vm`: how it is built, started, spoken to and cut off.

What is checked in it is none of this file's business. Everything it makes lies in one folder outside the tree
($SOAKD_VM_DIR, or soakd-vm in the user's cache).
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import socketserver
import subprocess
import threading
import time

# What a small server has, and what the checks ask with. python3 is the leaking and the greedy target.
PACKAGES = (
    "systemd-sysv udev dbus kmod iproute2 openssh-server ca-certificates initramfs-tools linux-image-amd64 "
    "systemd-container man-db python3-minimal sqlite3 e2fsprogs util-linux-extra tzdata"
).split()
MEMORY_MIB = 1280
# Where the processor is emulated a boot takes one to two minutes of a busy core; with KVM it takes seconds.
BOOT_S = 900


class GuestError(Exception):
    """The guest, not soakd, is what failed."""


def home():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("SOAKD_VM_DIR") or os.path.join(cache, "soakd-vm"))


def accelerator():
    """kvm or tcg (qemu's emulation of a processor: the same kernel and systemd, ten times slower). A /dev/kvm on a processor
    without the extensions for it is one for special guests only, and does not run a distribution's kernel."""
    if chosen := os.environ.get("SOAKD_VM_ACCEL"):
        return chosen
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    able = flags and {"vmx", "svm"} & set(flags[1].split())
    return "kvm" if able and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def slowness():
    """By how much longer an emulated processor may take, on a busy machine, before something is called missing."""
    return 1 if accelerator() == "kvm" else 4


def lacks():
    """Why there can be no virtual machine here, or None."""
    for tool in ("qemu-system-x86_64", "mmdebstrap", "mke2fs", "ssh", "ssh-keygen", "dpkg-deb"):
        if not shutil.which(tool):
            return f"no {tool}"
    return None if os.getuid() == 0 else "not root"


def mirrors():
    """The Debian archives that this machine's apt is configured with, as lines of a sources.list."""
    shown = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(SUITE) $(RELEASE) $(COMPONENT)",
         "Created-By: Packages", "Origin: Debian"], capture_output=True, text=True, check=True).stdout
    lines = {f"deb {uri} {release} {component}" for uri, _, _, release, component in
             (line.split() for line in shown.splitlines())}
    if not lines:
        raise GuestError("apt knows no Debian archive: run apt-get update")
    return sorted(lines)


def build():
    """The image, once: Debian as it comes, a key to log in with, the journal kept on disk."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    image, key = folder / "base.ext4", folder / "key"
    if image.exists():
        return
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    hook = f"""set -e
cd "$1"
echo soakd-guest >etc/hostname
echo '127.0.0.1 localhost soakd-guest' >etc/hosts
echo '/dev/vda / ext4 defaults,errors=remount-ro 0 1' >etc/fstab
printf '[Match]\\nName=en* eth*\\n[Network]\\nDHCP=ipv4\\n' >etc/systemd/network/guest.network
mkdir -p root/.ssh var/log/journal
cat {shlex.quote(str(key))}.pub >root/.ssh/authorized_keys
chmod 700 root/.ssh
printf 'UseDNS no\\nPermitRootLogin prohibit-password\\n' >etc/ssh/sshd_config.d/guest.conf
chroot . systemctl enable systemd-networkd ssh
for unit in apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer e2scrub_reap.service apparmor.service \\
  systemd-networkd-wait-online.service systemd-hwdb-update.service; do chroot . systemctl mask $unit; done
# An initial ramdisk of this machine's few drivers is read in a tenth of the time.
echo MODULES=list >etc/initramfs-tools/conf.d/guest
printf 'virtio_pci\\nvirtio_blk\\next4\\n' >>etc/initramfs-tools/modules
chroot . update-initramfs -u
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*
"""
    sources = "\n".join(mirrors()) + "\n"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
         f"--customize-hook={hook}", "--format=directory", "", str(root), "-"],
        input=sources, text=True, check=True)
    boot = root / "boot"
    shutil.copy(next(boot.glob("vmlinuz-*")), folder / "vmlinuz")
    shutil.copy(next(boot.glob("initrd.img-*")), folder / "initrd")
    half = folder / "base.half"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, half, "3G"], check=True)
    shutil.rmtree(root)
    half.rename(image)


class Mailbox:
    """An SMTP server on this side of the wall: it outlives the guest, and what it has taken counts as delivered."""

    def __init__(self):
        self.mails = []
        mails = self.mails

        class Session(socketserver.StreamRequestHandler):
            def handle(self):
                say = lambda line: self.wfile.write(line.encode() + b"\r\n")
                say("220 guest test")
                while line := self.rfile.readline(4096):
                    verb = line[:4].upper()
                    if verb == b"DATA":
                        say("354 go on")
                        lines = []
                        while (text := self.rfile.readline(65536)) not in (b".\r\n", b""):
                            lines.append(text)
                        mails.append((time.time(), b"".join(lines).decode(errors="replace")))
                        say("250 taken")
                    elif verb == b"QUIT":
                        say("221 bye")
                        return
                    else:
                        say("250 fine")

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        server.daemon_threads = True
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def subjects(self, since=0.0):
        """Subjects of the mails taken since then, unfolded."""
        out = []
        for at, mail in list(self.mails):
            if at >= since:
                head = mail.split("\r\n\r\n")[0].replace("\r\n ", " ").replace("\r\n\t", " ")
                out += [line[9:] for line in head.split("\r\n") if line.lower().startswith("subject: ")]
        return out


class Guest:
    """One machine: its disk, its power switch, and a root shell in it."""

    def __init__(self, folder, mail_port, memory_mib=MEMORY_MIB):
        self.folder, self.memory_mib = pathlib.Path(folder), memory_mib
        self.disk, self.small = self.folder / "disk.ext4", self.folder / "small.ext4"
        subprocess.run(["cp", "--sparse=always", home() / "base.ext4", self.disk], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", self.small, "64M"], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process, self.boots, self.mail_port = None, 0, mail_port

    def power_on(self):
        qmp = self.folder / "qmp"
        qmp.unlink(missing_ok=True)
        accel = accelerator()
        drive = "file={},if=virtio,format=raw,cache=writeback"
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", accel, "-cpu", "host" if accel == "kvm" else "max", "-smp", "1", "-m", str(self.memory_mib),
             "-kernel", home() / "vmlinuz", "-initrd", home() / "initrd",
             "-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off audit=0 apparmor=0 cryptomgr.notests",
             "-drive", drive.format(self.disk), "-drive", drive.format(self.small),
             "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
             "-device", "virtio-rng-pci", "-qmp", f"unix:{qmp},server=on,wait=off", "-no-reboot", "-nodefaults", "-display", "none",
             "-serial", f"file:{self.folder / 'console.log'}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.folder / "qemu.log", "w"))

    def monitor(self, command, **arguments):
        """A word to the machine itself: system_reset, stop, cont, system_wakeup."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(10)
            wire.connect(str(self.folder / "qmp"))
            stream = wire.makefile("rw")
            stream.readline()
            for word in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(word) + "\n")
                stream.flush()
                while "event" in (answer := json.loads(stream.readline())):
                    pass
            return answer.get("return", answer)

    def cut_power(self):
        """As pulling the plug: qemu is gone at once, with everything that the guest had not written out."""
        self.process.kill()
        self.process.wait()

    def ssh(self, *more):
        """One connection a boot, which every command shares: to make one takes an emulated processor seconds."""
        return ["ssh", "-q", "-F", "none", "-i", home() / "key", "-p", str(self.port), "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "-o", f"ControlPath={self.folder}/ssh-{self.boots}", *more, "root@127.0.0.1"]

    def connect(self):
        self.boots += 1
        # The mail server is port 2525 of the guest's own: to any other host soakd speaks TLS only.
        more = ("-R", f"127.0.0.1:2525:127.0.0.1:{self.mail_port}", "-o", "ControlMaster=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=60", "-fN")
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            return subprocess.run(self.ssh(*more), timeout=40, check=False, **quiet).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def run(self, command, timeout=90, check=False, stdin=b""):
        """A command in the guest; its exit code and all that it said."""
        timeout *= slowness()
        try:
            done = subprocess.run([*self.ssh(), command], input=stdin, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return 124, "no answer in time"
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if check and done.returncode != 0:
            raise GuestError(f"{command!r} in the guest: exit {done.returncode}: {said}")
        return done.returncode, said

    def say(self, command, timeout=90):
        return self.run(command, timeout)[1]

    def place(self, files):
        """Files into the disk of a guest that is not running: through an emulated processor's ssh it would take a minute each."""
        mount = self.folder / "mount"
        mount.mkdir()
        subprocess.run(["mount", "-o", "loop", self.disk, mount], check=True)
        try:
            for path, to in files:
                target = mount / str(to).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        finally:
            subprocess.run(["umount", mount], check=True)

    def wait_up(self, unlike=None):
        """Waits for a boot other than `unlike` to be far enough for a shell; gives its id."""
        until = time.monotonic() + BOOT_S
        while time.monotonic() < until:
            if self.process.poll() == 0:
                # A reset ends qemu, and a new one boots: emulating a second boot in the same process takes three times as long.
                self.power_on()
            if self.process.poll() is not None:
                raise GuestError("qemu ended: " + (self.folder / "qemu.log").read_text())
            if self.connect():
                code, boot = self.run("cat /proc/sys/kernel/random/boot_id", 20)
                if code == 0 and boot != unlike:
                    return boot
            time.sleep(1)
        raise GuestError("the guest does not come up: " + (self.folder / "console.log").read_text(errors="replace")[-2000:])

    def power_off(self):
        if self.process and self.process.poll() is None:
            self.cut_power()
