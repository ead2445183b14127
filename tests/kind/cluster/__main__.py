"""python -m cluster up | down | status | addon NAME | build NAME | load-image IMAGE | volume NAMESPACE CLAIM"""

import argparse
import signal
import sys

from cluster import addons, lifecycle, registry, storage, tools
from cluster.shell import Failure, step


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster", description="A real Kubernetes cluster of three nodes.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="make the cluster, or see that it is healthy")
    commands.add_parser("down", help="remove it")
    commands.add_parser("status", help="how to use it, and what is on it")
    addon = commands.add_parser("addon", help="install what only some tests need")
    addon.add_argument("name", choices=addons.ALL)
    build = commands.add_parser("build", help="build one program, if the cache does not hold it")
    build.add_argument("name", choices=tools.PROGRAMS)
    load = commands.add_parser("load-image", help="put an image of this machine where the nodes find it")
    load.add_argument("image")
    volume = commands.add_parser("volume", help="a ReadWriteMany volume that waits for a claim")
    volume.add_argument("namespace")
    volume.add_argument("claim")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        match arguments.command:
            case "up":
                lifecycle.up()
                print(lifecycle.status())
            case "down":
                lifecycle.down()
            case "status":
                print(lifecycle.status())
            case "addon":
                addons.ALL[arguments.name]()
            case "build":
                print(tools.build(arguments.name))
            case "load-image":
                with step(f"pushing {arguments.image}"):
                    name = registry.push(arguments.image)
                print(name)
            case "volume":
                print(storage.volume(arguments.namespace, arguments.claim))
    except Failure as failure:
        sys.exit(f"cluster: {failure}")


if __name__ == "__main__":
    main()
