"""Pods of all nodes reach each other: for nodes that are made here, as kind's own network plugin is not to be had."""

import json
from concurrent.futures import ThreadPoolExecutor

from cluster import engine, kubectl

PODS = "10.244.0.0/16"


def connect(nodes: list[str]) -> None:
    """One link for each pod, a route to each other node, and masquerading of what leaves the pods' network."""
    ranges = {}
    for node in kubectl.get("nodes", *nodes)["items"]:
        address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        ranges[node["metadata"]["name"]] = (node["spec"]["podCIDR"], address)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: engine.execute(node, script(node, ranges)), ranges))


def script(node: str, ranges: dict[str, tuple[str, str]]) -> str:
    subnet, _ = ranges[node]
    address_management = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/cni-ipam",
    }
    plugins = [
        {"type": "ptp", "ipam": address_management},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    configuration = json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": plugins})
    leaving = f"POSTROUTING -s {PODS} ! -d {PODS} -j MASQUERADE"
    lines = [
        f"cat >/etc/cni/net.d/10-pods.conflist <<'END'\n{configuration}\nEND",
        f"iptables -t nat -C {leaving} 2>/dev/null || iptables -t nat -A {leaving}",
    ]
    lines += [f"ip route replace {other} via {via}" for name, (other, via) in ranges.items() if name != node]
    return "\n".join(lines) + "\n"
