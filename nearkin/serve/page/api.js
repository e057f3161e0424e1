/** Ask the server. What it refuses becomes an Error with its one line. */
export async function ask(path, options) {
  return content(await reach(path, options));
}

/** What is at an address and its tag; null while it still has the tag that is known. */
export async function changed(path, tag) {
  const response = await reach(path, { cache: "no-store", headers: tag ? { "if-none-match": tag } : {} });
  return response.status === 304 ? null : { tag: response.headers.get("etag"), found: await content(response) };
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw unanswered(error);
  }
}

async function content(response) {
  const text = await response.text().catch((error) => { throw unanswered(error); });
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { detail: `The server said ${response.status}.` };
  }
  if (!response.ok) throw new Error(body.detail);
  return body;
}

const unanswered = (error) => error.name === "AbortError" ? error : new Error("The server does not answer. Is it still running?");

/** Signals of questions of one kind: whoever asks again does not wait for the answer before. */
export class Turns {
  next() {
    this.stop();
    this.newest = new AbortController();
    return this.newest.signal;
  }

  stop() {
    this.newest?.abort();
  }
}

/** An address with those parameters that have a value. */
export function address(path, parameters) {
  const said = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return said.length ? `${path}?${new URLSearchParams(said)}` : path;
}

export const thumbnail = (id) => `/api/thumbnail/${id}`;
export const picture = (id) => `/api/picture/${id}`;
