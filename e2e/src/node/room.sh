# The first process of a node's namespaces (processes, network, mounts): $1 is the scratch folder, $2 the node's address.
# Sets up what the node's programs find, says so by the file `room`, then holds the namespaces and reaps orphans.
set -eu
scratch=$1 address=$2 gateway=${2%.*}.254

# What the programs write at fixed places lands in the scratch folder or in memory, never on the machine.
mkdir -p "$scratch/lib/kubelet" "$scratch/lib/node-volumes"
mount --bind "$scratch/lib" /var/lib
mount -t tmpfs -o mode=755 node /run
mount -t tmpfs -o mode=755 node /var/log
mkdir -p /run/netns /run/containerd
# The kubelet insists on these values: it finds them, and the machine's stay as they are.
settle() {
  [ -e "/proc/sys/$1" ] || return 0
  mkdir -p "$scratch/sysctl/${1%/*}"
  echo "$2" > "$scratch/sysctl/$1"
  mount --bind "$scratch/sysctl/$1" "/proc/sys/$1"
}
settle vm/overcommit_memory 1
settle vm/panic_on_oom 0
settle kernel/panic 10
settle kernel/panic_on_oops 1
settle kernel/keys/root_maxkeys 1000000
settle kernel/keys/root_maxbytes 25000000
mount --make-rshared /

# A default route to nowhere: addresses of pods and Services cannot leave the machine.
unshare --net sleep infinity &
empty=$!
while [ "$(readlink "/proc/$empty/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link set lo up
ip link add up0 type veth peer name up1 netns "$empty"
ip address add "$address/24" dev up0
ip link set up0 up
nsenter --net="/proc/$empty/ns/net" sh -euc "ip link set lo up; ip address add $gateway/24 dev up1; ip link set up1 up"
ip route add default via "$gateway"
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || modprobe br_netfilter
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables

: > "$scratch/room"
wait
