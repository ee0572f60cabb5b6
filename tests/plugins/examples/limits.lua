-- Limits the memory of VMs, sets the log level of services, and greets: a plugin in Lua.

nexus.api = 1
nexus.extras = {"greet"}

function nexus.pre_command(command, fields, origin)
  if command == "CreateVm" and fields.mem_size_mib > 4096 then
    return nexus.veto("a VM has 4096 MiB at most")
  end
end

function nexus.pre_start_command(service, command, environment)
  -- A table cannot hold nil: false removes a variable.
  return {LOG_LEVEL = "warning", DEBUG = false}
end

function nexus.extra(name, body)
  nexus.log("greeting " .. body.who)
  return {text = "Hello, " .. body.who .. "!", plugin = "limits"}
end
