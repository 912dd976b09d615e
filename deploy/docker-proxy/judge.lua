-- Judges the body of "create a container": a run of Ferry's, exactly, or nothing.
--
-- What may stand in a request is listed; all else is refused, so that a privilege that Docker learns tomorrow is
-- refused too. Docker's decoder takes keys in any case, merges an object that stands twice, and reads on after
-- an oversized number; so a key must be spelled exactly, stands once, and numbers are whole.

local function setting(name)
    local value = os.getenv(name)
    assert(value and value ~= "", "docker-proxy: " .. name .. " is empty; set it in .env (see .env.example)")
    return value
end

local function bytes(name)
    local number, unit = setting(name):match("^(%d+%.?%d*)([kmgtKMGT]?)i?$")
    assert(number, "docker-proxy: " .. name .. " is not a size; write 512Mi, 1.5Gi or 2g")
    local power = {[""] = 0, k = 1, m = 2, g = 3, t = 4}
    return math.floor(tonumber(number) * 1024 ^ power[unit:lower()])
end

local network = setting("FERRY_RUN_NETWORK")
local memory_max = bytes("FERRY_RUN_MEMORY_MAX")
local volumes = {[setting("FERRY_VOLUME_STORAGE")] = true, [setting("FERRY_VOLUME_STAGE")] = true}
local images = {}                       -- repositories that runs may come from
for name in setting("FERRY_RUN_IMAGES"):gmatch("[^,%s]+") do images[name] = true end

-- JSON, strictly. Strings come back as they are written, escapes and all: a value that is compared below has no
-- escape in it, so one that is written with escapes is never equal to it.
local NULL, LIST, parse = {}, {}, nil

local function fail(why) error({why = why}, 0) end

local function blank(text, at) return text:match("^[ \t\r\n]*()", at) end

local function parse_string(text, at)
    local from = at + 1
    local stop = from
    while true do
        stop = text:find('["\\%c]', stop)
        local found = stop and text:sub(stop, stop)
        if found == '"' then return text:sub(from, stop - 1), stop + 1 end
        if found ~= "\\" then fail("the body is not JSON") end
        stop = stop + 2
    end
end

local function parse_object(text, at, depth)
    local object, place = {}, blank(text, at + 1)
    if text:sub(place, place) == "}" then return object, place + 1 end
    while true do
        if text:sub(place, place) ~= '"' then fail("the body is not JSON") end
        local key
        key, place = parse_string(text, place)
        if key:find("\\", 1, true) then fail("a key is written with an escape") end
        if object[key] ~= nil then fail("the key " .. key .. " stands twice") end
        place = blank(text, place)
        if text:sub(place, place) ~= ":" then fail("the body is not JSON") end
        object[key], place = parse(text, blank(text, place + 1), depth)
        place = blank(text, place)
        local mark = text:sub(place, place)
        place = blank(text, place + 1)
        if mark == "}" then return object, place end
        if mark ~= "," then fail("the body is not JSON") end
    end
end

local function parse_array(text, at, depth)
    local list, place = setmetatable({}, LIST), blank(text, at + 1)
    if text:sub(place, place) == "]" then return list, place + 1 end
    while true do
        list[#list + 1], place = parse(text, place, depth)
        place = blank(text, place)
        local mark = text:sub(place, place)
        place = blank(text, place + 1)
        if mark == "]" then return list, place end
        if mark ~= "," then fail("the body is not JSON") end
    end
end

function parse(text, at, depth)
    if depth > 8 then fail("the body is nested too deep") end
    local first = text:sub(at, at)
    if first == "{" then return parse_object(text, at, depth + 1) end
    if first == "[" then return parse_array(text, at, depth + 1) end
    if first == '"' then return parse_string(text, at) end
    for word, value in pairs({["true"] = true, ["false"] = false}) do
        if text:sub(at, at + #word - 1) == word then return value, at + #word end
    end
    if text:sub(at, at + 3) == "null" then return NULL, at + 4 end
    local number, stop = text:match("^(%-?%d+)()", at)
    local value = number and math.tointeger(tonumber(number))
    if not value or text:match("^[%.eE]", stop) then fail("the body is not JSON with whole numbers") end
    return value, stop
end

-- What a value may be.
local function array(value) return type(value) == "table" and getmetatable(value) == LIST end
local function object(value) return type(value) == "table" and getmetatable(value) == nil and value ~= NULL end
local function flag(value) return type(value) == "boolean" end
local function exactly(wanted) return function(value) return value == wanted end end
local function whole(low, high)
    return function(value) return math.type(value) == "integer" and value >= low and value <= high end
end
local function only(...)
    local wanted = {...}
    return function(value)
        if not array(value) or #value ~= #wanted then return false end
        for place, each in ipairs(wanted) do if value[place] ~= each then return false end end
        return true
    end
end
local function every(holds)
    return function(value)
        if not array(value) then return false end
        for _, each in ipairs(value) do if not holds(each) then return false end end
        return true
    end
end
local function text(value) return type(value) == "string" end
local function texts(value)
    if not object(value) then return false end
    for _, each in pairs(value) do if not text(each) then return false end end
    return true
end
local function nothing(value) return value == NULL or (object(value) and next(value) == nil) end
local function image(value) return text(value) and images[value:match("^([%w%._/-]+):[%w%._-]+$")] == true end
local function mount_points(value)
    if not object(value) then return false end
    for path, each in pairs(value) do
        local known = false
        for volume in pairs(volumes) do known = known or volume:match(":(.*)$") == path end
        if not known or not nothing(each) then return false end
    end
    return true
end
local function log_config(value)
    return object(value) and (value.Type == "json-file" or value.Type == "local")
        and (value.Config == nil or texts(value.Config))
end
-- docker-py repeats the network's name here, with nothing in it. Settings of an endpoint would name an alias, under
-- which the container could pass for another service.
local function networking(value)
    if not object(value) then return false end
    for key, each in pairs(value) do
        if key ~= network or each ~= NULL then return false end
    end
    return true
end

local HOST = {
    may = {
        NetworkMode = exactly(network), Memory = whole(1 << 26, memory_max), MemorySwap = whole(0, memory_max),
        CapDrop = only("ALL"), SecurityOpt = only("no-new-privileges:true"),
        Binds = every(function(value) return volumes[value] == true end),
        PidsLimit = whole(1, 4096), CpuShares = whole(2, 1024), NanoCpus = whole(1, 64000000000),
        OomScoreAdj = whole(0, 1000), ShmSize = whole(0, 1 << 30), Init = flag, LogConfig = log_config,
    },
    must = {"NetworkMode", "Memory", "MemorySwap", "CapDrop", "SecurityOpt", "PidsLimit"},
}
local CONTAINER = {
    may = {
        Image = image, Cmd = every(text), Env = every(text), Labels = texts, Volumes = mount_points,
        AttachStdout = flag, AttachStderr = flag, NetworkingConfig = networking, HostConfig = object,
    },
    must = {"Image", "HostConfig"},
}

local function check(value, rules, where)
    for key, each in pairs(value) do
        -- null and false say that something is not wanted, whatever it is.
        if each ~= NULL and each ~= false then
            local holds = rules.may[key]
            if not holds then fail(where .. key .. " is not allowed") end
            if not holds(each) then fail(where .. key .. " has a value that is not allowed") end
        end
    end
    for _, key in ipairs(rules.must) do
        if value[key] == nil or value[key] == NULL then fail(where .. key .. " is missing") end
    end
end

local function judge(body)
    local request, place = parse(body, blank(body, 1), 0)
    if blank(body, place) ~= #body + 1 then fail("the body goes on after its end") end
    if not object(request) then fail("the body is not an object") end
    check(request, CONTAINER, "")
    check(request.HostConfig, HOST, "HostConfig.")
    if request.HostConfig.Memory ~= request.HostConfig.MemorySwap then
        fail("HostConfig.MemorySwap is not the same as Memory")
    end
end

core.register_action("judge", {"http-req"}, function(txn)
    local body = txn.f:req_body()
    local length = tonumber(txn.f:req_hdr("content-length"))
    local ok, said
    if length ~= #body then
        ok, said = false, {why = "the body is larger than a run's request can be"}
    else
        ok, said = pcall(judge, body)
    end
    if ok then
        txn:set_var("txn.ok", true)
    else
        -- Only words of this file and a key get into the answer; a key's odd characters do not.
        local why = type(said) == "table" and said.why or "the body cannot be judged"
        txn:set_var("txn.why", (why:gsub("[^%w%._ ,;:-]", "?")):sub(1, 200))
    end
end)
