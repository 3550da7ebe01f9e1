"""Declare the options of `receive`, and check them; imports nothing heavy."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from transforms.config.monitoring_options import MetricsOptions
from transforms.core.errors import UsageError
from transforms.core.option import Group, option, range_problems
from transforms.imaging.uids import is_valid_uid

TOKEN_VARIABLE: Final = "DICOM_ROUTER_STOW_TOKEN"
EXTRA_MODULES: Final = ("pynetdicom", "uvicorn", "python_multipart")
MAX_AE_TITLE: Final = 16
ANY_CLASS: Final = "any"
MIB: Final = 1 << 20
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True)
class ReceiveOptions:
    """Options of `receive`; the help of each option describes its field."""

    folder: Path = option(
        group=Group.INPUT_OUTPUT,
        metavar="FOLDER",
        help="where objects are written; route it with --source watch --input FOLDER",
    )
    address: str = option(
        "127.0.0.1",
        group=Group.NETWORK,
        metavar="ADDRESS",
        help="IP address to listen on; 0.0.0.0 or :: listens on every interface",
    )
    port: int = option(
        11112,
        group=Group.NETWORK,
        at_least=0,
        at_most=65535,
        help="TCP port for C-STORE and C-ECHO; 0 chooses a free one",
    )
    stow_port: int | None = option(
        None,
        group=Group.NETWORK,
        at_least=0,
        at_most=65535,
        help="TCP port for STOW-RS (POST /dicom-web/studies); 0 chooses a free one",
        default_text="no STOW-RS",
    )
    ae_title: str = option(
        "ROUTER", group=Group.ACCESS, metavar="TITLE", help="AE title of the receiver"
    )
    any_called_ae_title: bool = option(
        False,
        group=Group.ACCESS,
        help="accept associations that call another AE title",
    )
    calling_ae_titles: tuple[str, ...] = option(
        (),
        group=Group.ACCESS,
        metavar="TITLE",
        help="accept associations from these AE titles only",
        default_text="all",
    )
    hosts: tuple[str, ...] = option(
        (),
        group=Group.ACCESS,
        metavar="HOST",
        help="accept connections from these IP addresses and networks (10.1.0.0/16) only",
        default_text="all",
    )
    storage_classes: tuple[str, ...] = option(
        (),
        group=Group.ACCESS,
        metavar="UID",
        help="accept these SOP Classes only; any also accepts private and unknown ones",
        default_text="every Storage SOP Class of the standard",
    )
    max_object_bytes: int = option(
        512 * MIB,
        group=Group.LIMITS,
        unit="bytes",
        above=0,
        help="refuse objects that are larger",
    )
    max_associations: int = option(
        20,
        group=Group.LIMITS,
        above=0,
        at_most=1000,
        help="reject associations, and answer STOW-RS requests with 503, above this number",
    )
    association_timeout: float = option(
        30.0,
        group=Group.LIMITS,
        unit="seconds",
        above=0,
        help="close a connection that has not requested an association, or sent a request, by then",
    )
    idle_timeout: float = option(
        60.0,
        group=Group.LIMITS,
        unit="seconds",
        above=0,
        help="close a connection on which nothing arrives for this time",
    )
    drain_timeout: float = option(
        30.0,
        group=Group.LIMITS,
        unit="seconds",
        at_least=0,
        help="after SIGTERM, wait this long for objects in transfer",
    )
    tls_certificate: Path | None = option(
        None, group=Group.TLS, metavar="FILE", help="certificate chain, PEM; turns TLS on"
    )
    tls_key: Path | None = option(
        None, group=Group.TLS, metavar="FILE", help="private key of the certificate, PEM"
    )
    tls_ca: Path | None = option(
        None,
        group=Group.TLS,
        metavar="FILE",
        help="certificates of authorities, PEM; senders must then present a certificate of one",
    )

    monitoring: MetricsOptions = field(default_factory=MetricsOptions)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks of `hosts`; empty accepts all."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in self.hosts)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return ipaddress.ip_address(self.address).is_loopback

    def check(self) -> None:
        """Check the options, the files of TLS and the folder.

        Raises:
            UsageError: with every problem found.
        """
        from transforms.storage.extras import how_to_install, is_installed

        problems = [*range_problems(self), *self._name_problems(), *self._tls_problems()]
        problems += [one for one in self.monitoring.problems() if one not in problems]
        folder = self.folder.absolute()
        if any((one / "lake.json").exists() for one in (folder, *folder.parents)):
            problems.append("--folder is in a lake, which no stream reads; give a folder outside")
        if self.folder.exists() and not self.folder.is_dir():
            problems.append("--folder is a file; give a folder")
        if not all(map(is_installed, EXTRA_MODULES)):
            problems.append(
                f"receive needs packages that are not installed: {how_to_install('receive')}"
            )
        if problems:
            raise UsageError("; ".join(problems))

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context of a server, or None without TLS. Standard: PS3.15 annex B (BCP 195).

        Raises:
            OSError: a file cannot be read or is not PEM; `ssl.SSLError` is one.
        """
        if self.tls_certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.tls_certificate, self.tls_key)
        if self.tls_ca is not None:
            context.load_verify_locations(self.tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _name_problems(self) -> list[str]:
        problems = [
            f"{flag}: write 1 to {MAX_AE_TITLE} printable ASCII characters, no backslash"
            for flag, titles in (
                ("--ae_title", (self.ae_title,)),
                ("--calling_ae_titles", self.calling_ae_titles),
            )
            if not all(map(_is_ae_title, titles))
        ]
        problems += [
            f"--storage_classes {uid}: write a UID, or any"
            for uid in self.storage_classes
            if uid != ANY_CLASS and not is_valid_uid(uid)
        ]
        for host in self.hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError:
                problems.append(f"--hosts {host}: write an IP address or a network, 10.1.0.0/16")
        try:
            exposed = not self.is_loopback
        except ValueError:
            return [*problems, f"--address {self.address}: write an IP address"]
        if exposed and self.stow_port is not None and not (stow_token() or self.tls_ca):
            problems.append(
                f"--stow_port on {self.address} would let everybody on the network store objects: set "
                f"{TOKEN_VARIABLE}, or require certificates with --tls_ca"
            )
        return problems

    def _tls_problems(self) -> list[str]:
        if self.tls_certificate is None:
            given = (("--tls_key", self.tls_key), ("--tls_ca", self.tls_ca))
            return [f"{flag} needs --tls_certificate" for flag, value in given if value]
        try:
            self.tls()
        except OSError as error:
            why = error.strerror or type(error).__name__
            return [f"--tls_certificate, --tls_key or --tls_ca cannot be used ({why})"]
        return []


def stow_token() -> str:
    """Return the bearer token of STOW-RS from the environment; empty if none is required."""
    return os.environ.get(TOKEN_VARIABLE, "")


def _is_ae_title(text: str) -> bool:
    """Return whether a text is an AE title. Standard: PS3.5 section 6.2, VR AE."""
    return (
        0 < len(text.strip()) <= MAX_AE_TITLE
        and text.isascii()
        and text.isprintable()
        and "\\" not in text
    )
