"""The options of `review`; imports nothing heavy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from transforms.core.errors import UsageError
from transforms.core.option import Group, option, range_problems


@dataclass(frozen=True, kw_only=True)
class ReviewOptions:
    """Options of `review`; the help of each option describes its field."""

    policy: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="policy of the runs, if it has sinks outside the lake or by region",
    )
    export: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="write what waits to a CSV file, to be answered without a browser, and exit",
    )
    import_file: Path | None = option(
        None,
        flag="import",
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="read answers from the columns 'answer' and 'reviewer' of such a file, and exit",
    )
    reviewer: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="NAME",
        help="nickname for the lines of --import that have none",
    )
    confidence_below: float = option(
        0.99,
        group=Group.DECISION,
        at_least=0,
        at_most=1,
        help="also show routed images with a lower confidence; has no effect on labels whose threshold "
        "is higher",
    )
    sample: int = option(
        0,
        group=Group.DECISION,
        metavar="IMAGES",
        at_least=0,
        help="also show about that many routed images drawn at random, after those of low confidence; "
        "calibrate --from_labels needs answers about confident images",
        default_text="none",
    )
    apply_interval: float = option(
        15.0,
        group=Group.SPEED,
        unit="seconds",
        above=0,
        help="move the objects of answered images this often; answers are stored at once",
    )
    port: int = option(
        0,
        group=Group.NETWORK,
        at_least=0,
        at_most=65535,
        help="TCP port to listen on; 0 chooses a free one",
        default_text="a free one",
    )
    address: str = option(
        "127.0.0.1",
        group=Group.NETWORK,
        metavar="ADDRESS",
        help="IP address to listen on; the connection is not encrypted",
    )
    allow_open_ports: bool = option(
        False,
        group=Group.NETWORK,
        help="allow an --address that other machines reach",
    )
    host_names: tuple[str, ...] = option(
        (),
        group=Group.NETWORK,
        flag="host_name",
        metavar="NAME",
        help="name of this server in a browser, as behind a proxy; addresses and localhost always work",
        default_text="none",
    )

    def check(self) -> None:
        """Check the options.

        Raises:
            UsageError: with every problem found.
        """
        problems = range_problems(self)
        if self.export and self.import_file:
            problems.append("give --export or --import, not both")
        try:
            exposed = not ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            problems.append(f"--address {self.address}: write an IP address")
        else:
            if exposed and not self.allow_open_ports:
                problems.append(
                    f"--address {self.address} would show images to whoever reads the network: give "
                    "127.0.0.1 and forward the port by ssh, or a proxy with TLS, or add "
                    "--allow_open_ports"
                )
        if problems:
            raise UsageError("; ".join(problems))
