/** Requests to the server that the page came from, and to nothing else. */

/** What went wrong, in one line. */
export class ServerError extends Error {}

// For pages that are served beyond this machine: atat serve prints an address that ends in #token=...
const token = new URLSearchParams(location.hash.slice(1)).get("token");

async function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { signal, headers, credentials: "omit", cache: "no-store" };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("The server does not answer. Is atat serve still running?");
  }
  if (!response.ok) throw new ServerError(await complaint(response));
  return response;
}

async function complaint(response) {
  if (response.status === 401) return "The server asks for its token: open the whole address that atat serve printed.";
  try {
    return oneLine((await response.json()).error.message);
  } catch {
    return `The server answered with an error (HTTP ${response.status}).`;
  }
}

function oneLine(message) {
  return String(message).replaceAll(/\s+/g, " ").trim();
}

export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** Yield the events {event, data} of an answer until the server says that it has ended. Never asks twice: a connection
 * that breaks is a ServerError. Leaving the loop, or `signal`, closes the connection, and the server stops its work. */
export async function* listen(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.getReader();
  try {
    for await (const message of messages(reader, signal)) {
      if (message.event === "end") return;
      if (message.event === "error") throw new ServerError(oneLine(message.data.error.message));
      yield message;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ServerError("The connection broke before the end. Is atat serve still running?");
}

async function* messages(reader, signal) {
  const decoder = new TextDecoder();
  let rest = "";
  let message = { event: "message", data: "" };
  for (;;) {
    let chunk;
    try {
      chunk = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      return;
    }
    rest += decoder.decode(chunk.value, { stream: !chunk.done });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (line === "") {
        if (message.data !== "") yield { event: message.event, data: JSON.parse(message.data) };
        message = { event: "message", data: "" };
      } else if (field === "event") {
        message.event = value;
      } else if (field === "data") {
        message.data += value;
      }
    }
    if (chunk.done) return;
  }
}
