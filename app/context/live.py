"""Live views: the tabs of this process, its internal address, and the way to those of others."""

from dataclasses import dataclass

from app.config import Settings
from app.database import Database
from app.services.browser.live_tabs import LiveTabs
from app.services.live.controls import LiveControls
from app.services.live.passes import LivePasses, derive_secret
from app.services.live.processes import LiveProcesses
from app.services.live.relay import LiveRelay
from app.services.live.server import LiveServer


@dataclass(frozen=True)
class Live:
    tabs: LiveTabs
    """Tabs of this process."""
    process: str
    """Name of this process in its leases."""
    server: LiveServer
    processes: LiveProcesses
    relay: LiveRelay
    controls: LiveControls


def build_live(settings: Settings, database: Database, tabs: LiveTabs, owner: str) -> Live:
    passes = LivePasses(_secrets(settings))
    return Live(
        tabs=tabs,
        process=owner,
        server=LiveServer(
            tabs=tabs,
            passes=passes,
            process=owner,
            host=settings.internal_host,
            port=settings.internal_port,
        ),
        processes=LiveProcesses(
            database=database, process=owner, machine=settings.machine_name, host=settings.internal_host
        ),
        relay=LiveRelay(passes=passes, machine=settings.machine_name),
        controls=LiveControls(database=database, process=owner),
    )


def _secrets(settings: Settings) -> list[bytes]:
    """Return the secret of the settings; without one, secrets of the encryption keys, which all processes have."""
    if settings.internal_secret is not None:
        return [settings.internal_secret.get_secret_value().encode()]
    return [derive_secret(key) for key in settings.encryption_key_bytes]
