# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server kernel`: manage the kernels for which livepatches can be built."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from elivepatch.build.archive.apt import distributions
from elivepatch.build.base.custom import CustomKernel
from elivepatch.build.base.store import Base
from elivepatch.build.kept.files import KeptBuild, left_by_build
from elivepatch.build.providers.source import Declared
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import EnvironmentFault, ExitStatus, UsageError
from elivepatch.model.kernel import BuildId, parse_release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.output import Output
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.debug_kernel import debug_release

_NEEDED = ("vmlinux", "vmlinuz", "symvers")
_KEPT = ("build", *_NEEDED, "modules", "debug")


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "kernel", help="the kernels to build for: add, list, show, remove", allow_abbrev=False
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    names = (
        f"a release as `uname -r` prints it, or one of {', '.join(distributions())}, which mean the newest stock kernel"
    )
    for name, run, help_text in (
        ("add", _add, "make the base of a stock kernel, of one in packages, or of one built from source"),
        ("show", _show, "print all facts about one base"),
        ("remove", _remove, "remove a base and the files compiled for it"),
    ):
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        action.add_argument("kernel", metavar="KERNEL", help=names if name == "add" else "a release")
        if name == "add":
            action.add_argument(
                "--debugging",
                action="store_true",
                help="also build its debugging kernel, for trials with --thorough; that takes half an hour, once",
            )
            _add_custom(action)
        add_common(action, run)
    add_common(actions.add_parser("list", help="list the bases", allow_abbrev=False), _list)


def _add_custom(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a kernel of your own")
    group.add_argument(
        "--source",
        metavar="SOURCE",
        help="its source: a directory, REPOSITORY#TAG, a tar archive, a .dsc, or a package such as "
        "linux-source-6.12 or linux-source-6.12=VERSION",
    )
    group.add_argument("--kernel-config", metavar="FILE", type=Path, help="its .config")
    group.add_argument(
        "--base-patch",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a patch that is in the running kernel but not in the source; once for each patch, in order",
    )
    group.add_argument(
        "--build",
        metavar="DIR",
        type=Path,
        help="the directory in which it was built, as the build left it: its .config, vmlinux, bzImage and "
        "Module.symvers need not be named, and the kernel needs no debug information; then nothing is built",
    )
    group.add_argument("--vmlinux", metavar="FILE", type=Path, help="the vmlinux of its build; then nothing is built")
    group.add_argument("--vmlinuz", metavar="FILE", type=Path, help="with --vmlinux: the image for trials (bzImage)")
    group.add_argument("--symvers", metavar="FILE", type=Path, help="with --vmlinux: the build's Module.symvers")
    group.add_argument(
        "--modules", metavar="DIR", type=Path, help="with --vmlinux or --build: lib/modules/RELEASE of the build"
    )
    group.add_argument(
        "--debug",
        metavar="DIR",
        type=Path,
        help="with --vmlinux: the debug files of stripped modules (*.ko.debug) and of a stripped vmlinux",
    )
    group.add_argument(
        "--packages",
        metavar="DIR",
        dest="packed",  # a setting has the other name
        type=Path,
        help="the directory with its .deb, .rpm or pacman packages; nothing is built; --source is needed only if no "
        "package has its source",
    )
    group.add_argument("--build-id", metavar="HEX", help="the build-id of the host's kernel (`elivepatch doctor`)")
    group.add_argument(
        "--accept-unproved", action="store_true", help="accept it as the host's kernel, although the build-ids differ"
    )


def _backend(arguments: argparse.Namespace) -> LocalBackend:
    return LocalBackend(settings_of(arguments))


def _add(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    backend = _backend(arguments)
    custom = _custom_kernel(arguments) if arguments.packed is None else None
    if arguments.packed is not None:
        asked, declared = _in_packages(arguments)
        base = backend.make_from_packages(asked, arguments.packed, declared, output.progress)
    elif custom is None:
        base = backend.maker(output.progress).add(arguments.kernel)
    else:
        base = backend.custom_maker(output.progress).add(custom)
    debugging = backend.make_debug_kernel(base, output.progress) if arguments.debugging else None
    output.document(_described(base, backend))
    output.line(f"{base.release} is ready: build-id {base.identity.build_id}, {base.size_bytes >> 20} MiB.")
    output.line(f"{_fidelity(base)} functions of a sample are those of the kernel.")
    if debugging is not None:
        output.line(f"Its debugging kernel is {debugging.release}, {debugging.size_bytes >> 20} MiB.")
    if base.claimed_build_id is not None:
        output.note(f"note: it was not proved to be the host's kernel; its own build-id is {base.build_id}.")
    elif custom is not None and custom.kept is None and custom.build_id is None:
        output.note("note: hosts whose kernel has another build-id are refused; --build-id names the one of a host.")
    return ExitStatus.OK


def _in_packages(arguments: argparse.Namespace) -> tuple[KernelRequest, tuple[Declared, ...]]:
    """Return the kernel that is in packages, and its source if the options name it."""
    others = ("kernel_config", *_KEPT)
    unneeded = [f"--{name.replace('_', '-')}" for name in others if getattr(arguments, name) is not None]
    unneeded += ["--accept-unproved"] * arguments.accept_unproved
    unneeded += ["--base-patch"] * bool(arguments.base_patch and arguments.source is None)
    if unneeded:
        raise UsageError(
            "packages-alone",
            f"With --packages, all files of the kernel come from its packages, so {unneeded[0]} has no use.",
            advice="Leave it out. --source names the source if no package has it, --base-patch what that lacks.",
        )
    release = parse_release(arguments.kernel)
    asked = KernelRequest(release=release, build_id=_build_id(arguments) or BuildId(""))
    if arguments.source is None:
        return asked, ()
    patches = tuple(arguments.base_patch)
    return asked, (Declared(releases=release, source=arguments.source, base_patches=patches),)


def _build_id(arguments: argparse.Namespace) -> BuildId | None:
    if arguments.build_id is None:
        return None
    if not re.fullmatch(r"[0-9a-f]{16,64}", arguments.build_id):
        raise UsageError(
            "build-id-malformed",
            f"{arguments.build_id[:80]!r} is not a build-id.",
            advice="Give the hexadecimal digits that `elivepatch doctor` prints on the host.",
        )
    return BuildId(arguments.build_id)


def _custom_kernel(arguments: argparse.Namespace) -> CustomKernel | None:
    """Return the kernel that the options describe, None if they describe none: then it is a stock kernel."""
    kept = {name: getattr(arguments, name) for name in _KEPT}
    others = [*kept.values(), *arguments.base_patch, arguments.kernel_config, arguments.build_id]
    if arguments.source is None:
        if any(others) or arguments.accept_unproved:
            raise UsageError(
                "source-missing",
                "A kernel of your own needs its source.",
                advice="Add --source, and --kernel-config for its .config.",
            )
        return None
    config = arguments.kernel_config or (arguments.build / ".config" if arguments.build is not None else None)
    if config is None:
        raise UsageError(
            "config-missing",
            "A kernel of your own needs the .config that it was built with.",
            advice="Add --kernel-config; on the host it is /proc/config.gz (unpacked) or /boot/config-RELEASE.",
        )
    return CustomKernel(
        release=parse_release(arguments.kernel),
        source=arguments.source,
        config=config,
        base_patches=tuple(arguments.base_patch),
        kept=_kept_build(**kept) if any(kept.values()) else None,
        build_id=_build_id(arguments),
        accept_unproved=arguments.accept_unproved,
    )


def _kept_build(build: Path | None, **given: Path | None) -> KeptBuild:
    """Return the files of a build that the options name, each by itself or all by their directory."""
    if build is not None:
        return left_by_build(build, **given)
    vmlinux, vmlinuz, symvers = (given[name] for name in _NEEDED)
    if vmlinux is None or vmlinuz is None or symvers is None:
        raise UsageError(
            "kept-incomplete",
            "The files of a build are --vmlinux, --vmlinuz and --symvers together, and --modules if it has modules.",
            advice="Give all of them, or --build; with none of them, the server builds the kernel.",
        )
    return KeptBuild(vmlinux=vmlinux, vmlinuz=vmlinuz, symvers=symvers, modules=given["modules"], debug=given["debug"])


def _list(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    backend = _backend(arguments)
    bases = backend.bases.list()
    output.document([_described(base, backend) for base in bases])
    if bases:
        output.table(
            ("RELEASE", "VERSION", "KIND", "TOOLCHAIN", "COMPARED", "MIB", "DEBUGGING", "BUILD-ID", "DIGEST"),
            [
                (base.release, base.version, base.kind, base.toolchain, _fidelity(base), base.size_bytes >> 20,
                 "yes" if backend.debug_kernel(base) is not None else "-", base.identity.build_id[:12],
                 base.digest[:12])
                for base in bases
            ],
        )  # fmt: skip
    else:
        output.line("No kernel yet. Add one: elivepatch-server kernel add debian-13")
    return ExitStatus.OK


def _show(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    backend = _backend(arguments)
    base = backend.bases.get(arguments.kernel)
    described = _described(base, backend)
    output.document(described)
    facts = [(key, value) for key, value in described.items() if not isinstance(value, dict)]
    output.table(("FACT", "VALUE"), [*facts, ("functions_compared", _fidelity(base))])
    output.line()
    output.table(("MADE FROM", "SHA-256"), base.packages.items())
    return ExitStatus.OK


def _remove(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    backend = _backend(arguments)
    debugging = _debug_kernel(backend, arguments.kernel)
    backend.bases.remove(arguments.kernel)
    if debugging is not None:
        backend.debug_kernels.remove(debugging)
    output.document({"removed": arguments.kernel})
    output.line(f"{arguments.kernel} is removed.")
    return ExitStatus.OK


def _debug_kernel(backend: LocalBackend, release: str) -> str | None:
    """Return the release of a base's debugging kernel, damaged or not; None if there is none or the base is damaged."""
    try:
        base = backend.bases.find(parse_release(release))
    except EnvironmentFault:
        return None
    found = debug_release(base) if base is not None else None
    return found if found is not None and (backend.debug_kernels.directory / found).is_dir() else None


def _fidelity(base: Base) -> str:
    """Return how many functions of a sample are those of the kernel, such as `224 of 224`."""
    return f"{base.fidelity.get('identical', 0)} of {base.fidelity.get('functions', 0)}"


def _described(base: Base, backend: LocalBackend) -> dict[str, object]:
    debugging = backend.debug_kernel(base)
    return base.as_dict() | {
        "debugging_kernel": debugging.release if debugging is not None else None,
        "digest": base.digest,
        "fidelity_share": base.fidelity.get("identical", 0) / max(base.fidelity.get("functions", 0), 1),
        "objects": len(base.units.by_source),
        "proved": base.claimed_build_id is None,
    }
