"""One handler for each command on plugins."""

from __future__ import annotations

from nexus.capability import Context, handles
from nexus.plugins.commands import Extra, ExtraReply, ListPlugins, PluginList, ReloadPlugins
from nexus.plugins.host import PluginHost

__all__ = ["extra", "list_plugins", "reload_plugins"]


@handles(ListPlugins)
async def list_plugins(ctx: Context, _command: ListPlugins) -> PluginList:
    return await ctx.daemon.manager(PluginHost).listing()


@handles(ReloadPlugins)
async def reload_plugins(ctx: Context, _command: ReloadPlugins) -> PluginList:
    return await ctx.daemon.manager(PluginHost).reload()


@handles(Extra)
async def extra(ctx: Context, command: Extra) -> ExtraReply:
    return ExtraReply(await ctx.daemon.manager(PluginHost).extra(command.name, command.body))
