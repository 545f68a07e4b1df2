-- How streams begin and end, where the filters behind this one leave something to say.

local WATCH = "/grpc.health.v1.Health/Watch"

-- A call whose head is all there is of it is answered here: of the filters that follow, one would wait for its first
-- message for ever, and one makes no answer of gRPC's of what was asked without any. Asking for the first part of the
-- body waits for nothing but to know whether there is one: the head goes on meanwhile.
function envoy_on_request(handle)
  local watches = handle:headers():get(":path") == WATCH
  if handle:bodyChunks()() then return end
  local head = {[":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = "0"}
  if watches then
    head["grpc-status"], head["x-error-code"] = "3", "invalid"
  end
  -- Where trailers follow a head that went on, it is too late, and the others have seen the end.
  pcall(handle.respond, handle, head, watches and "the call has no message" or "")
end

-- What makes Envoy's own answers look like a worker's gives them the length 0, and so those of streams, which have none
-- themselves. HTTP/2 clients that look at it end such a stream as broken.
function envoy_on_response(handle)
  handle:headers():remove("content-length")
end
