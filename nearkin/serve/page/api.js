/** Ask the server. What it refuses becomes an Error with its one line. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { detail: `The server said ${response.status}.` };
  }
  if (!response.ok) throw new Error(body.detail);
  return body;
}

/** An address with those parameters that have a value. */
export function address(path, parameters) {
  const said = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return said.length ? `${path}?${new URLSearchParams(said)}` : path;
}

export const thumbnail = (id) => `/api/thumbnail/${id}`;
export const picture = (id) => `/api/picture/${id}`;
