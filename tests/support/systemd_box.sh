# Boots systemd as PID 1 of its own namespaces, over an overlay of this machine's root. Runs inside `unshare`, as root.
# usage: systemd_box.sh WORK UPPER [SOURCE TARGET]...   UPPER: laid over the root; SOURCE: shown, read-only, at TARGET.
set -e
W=$1 UPPER=$2; shift 2
ip link set lo up
hostname tminus-box
mount -t tmpfs -o size=1g,mode=755 tmpfs "$W"
mkdir "$W/up" "$W/work" "$W/root"
cp -a "$UPPER/." "$W/up/"
mount -t overlay overlay -o lowerdir=/,upperdir="$W/up",workdir="$W/work" "$W/root"
R=$W/root
while [ $# -gt 0 ]; do mkdir -p "$R$2"; mount --bind "$1" "$R$2"; mount -o remount,bind,ro "$R$2"; shift 2; done
mount -t proc proc "$R/proc"
for p in sys sysrq-trigger irq bus fs; do
    [ -e "$R/proc/$p" ] && mount --bind "$R/proc/$p" "$R/proc/$p" && mount -o remount,bind,ro "$R/proc/$p"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$R/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$R/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/tmp"
mount -t tmpfs -o mode=755,nosuid tmpfs "$R/dev"
for d in null zero full random urandom tty; do touch "$R/dev/$d"; mount --bind "/dev/$d" "$R/dev/$d"; done
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
: > "$R/etc/fstab"
rm -f "$R/etc/machine-id"; systemd-id128 new > "$R/etc/machine-id"
rm -rf "$R/var/log/journal"; mkdir -p "$R/var/log/journal"
cat > "$R/etc/systemd/system/box.target" <<X
[Unit]
Requires=basic.target dbus.socket
After=basic.target
AllowIsolate=yes
X
# No unit of the machine itself starts.
rm -rf "$R"/etc/systemd/system/*.wants
for u in systemd-timesyncd systemd-networkd systemd-udevd systemd-resolved systemd-modules-load systemd-sysctl \
    kmod-static-nodes systemd-remount-fs systemd-random-seed systemd-pstore systemd-update-utmp systemd-firstboot; do
    ln -sf /dev/null "$R/etc/systemd/system/$u.service"
done
for u in dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount; do
    ln -sf /dev/null "$R/etc/systemd/system/$u"
done
cd "$R"
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared / # LoadCredential= needs shared propagation
exec setpriv --bounding-set -sys_time,-sys_boot,-sys_module,-sys_rawio,-syslog,-mknod env -i container=box \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb \
    /lib/systemd/systemd --system --unit=box.target --log-target=journal --log-level=info
