-- A unary call of the Open Inference Protocol becomes the HTTP request that asks the same: the model's name
-- stands in the message, and with it in the path the routes, keys, quotas and logs of HTTP are those of gRPC.
-- What cannot be translated keeps its path, and the front desk says why.
--
-- MARKER is the header that tells a worker which method was called; see api/grpc_status.py.

local MARKER = "x-fairlead-grpc"
local NAMED = "x-model-name" -- metadata that names the model of a message too large to be read here
local NAMED_VERSION = "x-model-version"
local CLIENT = "x-client" -- whose key it is, once that is checked
local SERVICE = "inference.GRPCInferenceService"
local HEALTH = "grpc.health.v1.Health"
local FRAME = 5 -- bytes before a message: compressed or not, and its length
local MOST = 4096 -- bytes of a message that are looked at
local MOST_FIELDS = 16
local INVALID, UNIMPLEMENTED, UNAVAILABLE = "3", "12", "14"
local ERRORS = {[INVALID] = "invalid", [UNIMPLEMENTED] = "method", [UNAVAILABLE] = "unavailable"}
-- Messages may be compressed; what is read here of one that is, the front desk unpacks.
local ENCODING = "content-encoding" -- tells whoever reads the message; no caller's word counts for a call
local ENCODINGS = {gzip = true, deflate = true}
local DESK = "front"
local UNPACKS = "/unpack"
local UNPACKS_MS = 2000
local UNKNOWN = "a message is compressed in a way that is not read here; send gzip, deflate or identity"
local DAMAGED = "the message is not what its grpc-encoding says: it cannot be unpacked"
local NOT_NOW = "compressed messages cannot be unpacked now; try again, or send them uncompressed"

-- Methods about one model: the number of the field that names it, the HTTP method, and the end of the path.
local MODEL = {
  ModelInfer = {1, "POST", "/infer"},
  ModelReady = {1, "GET", "/ready"},
  ModelMetadata = {1, "GET", ""},
  ModelConfig = {1, "GET", "/config"},
  ModelStatistics = {1, "GET", "/stats"},
}
local EVERY_MODEL = {ModelStatistics = "/v2/models/stats"} -- asked if no model is named
-- Methods that are answered for all.
local SERVER = {
  ServerLive = "/v2/health/live",
  ServerReady = "/v2/health/ready",
  ServerMetadata = "/v2",
}
-- Methods about the repository; the field that names the model, if there is one.
local REPOSITORY = {
  RepositoryIndex = {nil, ""},
  RepositoryModelLoad = {2, "/load"},
  RepositoryModelUnload = {2, "/unload"},
}

local function varint(bytes, at)
  local value, scale = 0, 1
  for index = at, at + 9 do
    local byte = string.byte(bytes, index)
    if not byte then return nil end
    value = value + (byte % 128) * scale
    if byte < 128 then return value, index + 1 end
    scale = scale * 128
  end
  return nil
end

-- The texts of fields 1 and 2 of a message, of each the first, and whether all of it was read. A message that has
-- more is refused by who reads it whole. Fields may come in any order, but nearly always they come by number: unless
-- `thorough`, whoever has found field 1 reads past a larger one no more.
local function texts(bytes, thorough)
  local found = {}
  local at, size = 1, #bytes
  for _ = 1, MOST_FIELDS do
    if at > size then return found, at == size + 1 end
    local tag, after = varint(bytes, at)
    if not tag then return found end
    local field, kind = math.floor(tag / 8), tag % 8
    if kind == 2 then
      local length, start = varint(bytes, after)
      if not length then return found end
      if (field == 1 or field == 2) and not found[field] and start + length - 1 <= size then
        found[field] = string.sub(bytes, start, start + length - 1)
      end
      at = start + length
    elseif kind == 0 then
      local _, past = varint(bytes, after)
      if not past then return found end
      at = past
    elseif kind == 1 then
      at = after + 8
    elseif kind == 5 then
      at = after + 4
    else
      return found
    end
    if found[1] and not thorough and (found[2] or field > 2) then return found end
  end
  return found
end

-- Can it stand in a path as it is, and mean nothing else there?
local function plain(text)
  return text ~= nil and #text <= 128 and string.find(text, "^[%w_-][%w._-]*$") ~= nil
end

local function refuse(handle, code, message)
  handle:respond({
    [":status"] = "200",
    ["content-type"] = "application/grpc",
    ["grpc-status"] = code,
    ["grpc-accept-encoding"] = "identity,deflate,gzip",
    ["x-error-code"] = ERRORS[code],
  }, message)
end

-- What a message begins with that is compressed; nil after a refusal.
local function unpacked(handle, beginning)
  local encoding = handle:headers():get("grpc-encoding")
  if not ENCODINGS[encoding] then
    refuse(handle, UNIMPLEMENTED, UNKNOWN)
    return nil
  end
  local asking = {
    [":method"] = "POST",
    [":path"] = "/",
    [":authority"] = DESK,
    [MARKER] = UNPACKS,
    [ENCODING] = encoding,
  }
  local answered, plain = handle:httpCall(DESK, asking, beginning, UNPACKS_MS)
  if answered[":status"] == "400" then
    refuse(handle, INVALID, DAMAGED)
  elseif answered[":status"] ~= "200" then
    refuse(handle, UNAVAILABLE, NOT_NOW)
  else
    handle:headers():replace(ENCODING, encoding)
    return plain or ""
  end
  return nil
end

-- The beginning of the one whole message; nil after a refusal.
local function message_of(handle)
  local body = handle:body()
  local length = body and body:length() or 0
  if length < FRAME then
    refuse(handle, INVALID, "the call has no message")
    return nil
  end
  local head = body:getBytes(0, math.min(length, FRAME + MOST))
  local flag, a, b, c, d = string.byte(head, 1, FRAME)
  if ((a * 256 + b) * 256 + c) * 256 + d + FRAME ~= length then
    refuse(handle, INVALID, "a unary call has one whole message")
    return nil
  end
  handle:headers():replace("content-length", tostring(length))
  local beginning = string.sub(head, FRAME + 1)
  if flag == 0 then return beginning end
  return unpacked(handle, beginning)
end

-- What was got from a handle before its body was read must not be used after.
local function go(handle, verb, path)
  local headers = handle:headers()
  headers:replace(":method", verb)
  headers:replace(":path", path)
end

local function ask(handle, name, version, call)
  if version == "" then version = nil end
  if plain(name) and (version == nil or plain(version)) then
    local path = "/v2/models/" .. name
    if version then path = path .. "/versions/" .. version end
    go(handle, call[2], path .. call[3])
  end
end

local function to_model(handle, method)
  local call = MODEL[method]
  local headers = handle:headers()
  local name, version = headers:get(NAMED), headers:get(NAMED_VERSION)
  local encoding = headers:get("grpc-encoding")
  -- Of a call that may compress, only the message tells whether it does; and only what runs a model may be too large.
  if not name or call[2] == "GET" or (encoding and encoding ~= "identity") then
    local message = message_of(handle)
    if not message then return end
    if not name then
      local found, whole = texts(message, call[2] == "GET") -- of those nobody reads more
      name, version = found[1], found[2]
      if whole and (name or "") == "" and EVERY_MODEL[method] then
        go(handle, call[2], EVERY_MODEL[method])
        return
      end
    end
  end
  ask(handle, name, version, call)
end

-- A stream goes where its first message goes; what names that has been read by the filter before.
local NAMING = "envoy.filters.http.grpc_field_extraction"
local function to_stream(handle)
  local headers = handle:headers()
  local name, version = headers:get(NAMED), headers:get(NAMED_VERSION)
  if not name then
    local found = handle:streamInfo():dynamicMetadata():get(NAMING)
    if not found then return end
    name, version = (found["model_name"] or {})[1], (found["model_version"] or {})[1]
  end
  ask(handle, name, version, MODEL.ModelInfer)
end

local function to_repository(handle, call)
  local message = message_of(handle)
  if not message then return end
  if not call[1] then
    go(handle, "POST", "/v2/repository/index")
    return
  end
  local name = texts(message)[call[1]]
  if plain(name) then
    go(handle, "POST", "/v2/repository/models/" .. name .. call[2])
  end
end

-- grpc.health.v1: no name is the server's, and so are the names of its protocols.
local function to_health(handle)
  local message = message_of(handle)
  if not message then return end
  local name = texts(message)[1] or ""
  if name == "" or name == SERVICE or name == HEALTH then
    go(handle, "GET", "/v2/health/ready")
  elseif plain(name) and handle:headers():get(CLIENT) then -- else the key was not checked: the route is open
    go(handle, "GET", "/v2/models/" .. name .. "/ready")
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local service, method = string.match(headers:get(":path"), "^/([^/]*)/([^/]*)$")
  headers:replace(MARKER, method or "?")
  headers:remove(ENCODING)
  if service == HEALTH and method == "Check" then
    to_health(handle)
  elseif service ~= SERVICE then
    return
  elseif SERVER[method] then
    if message_of(handle) then go(handle, "GET", SERVER[method]) end
  elseif method == "ModelStreamInfer" then
    to_stream(handle)
  elseif MODEL[method] then
    to_model(handle, method)
  elseif REPOSITORY[method] then
    to_repository(handle, REPOSITORY[method])
  end
end
