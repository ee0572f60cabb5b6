"""Protects production VMs: a plugin that vetoes."""

from nexus.plugins.api import Veto, hookimpl

NEXUS_PLUGIN_API = 1


@hookimpl
def pre_command(command, fields, origin):
    if command == "DeleteVm" and fields["vm"].startswith("prod-"):
        return Veto(f"{fields['vm']} is in production, and user {origin['uid']} may not delete it")
    return None


@hookimpl
def pre_start_command(service, environment):
    if "DATABASE_URL" not in environment:
        return Veto("DATABASE_URL is not set")
    return {"APP_NAME": service, "PYTHONHOME": None}
