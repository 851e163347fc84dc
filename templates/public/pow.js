// Solves the proof of work of a form: a number whose SHA-256 together with the challenge begins with enough
// zero bits. Without this script the form works too: then a person waits some seconds instead.
(() => {
  "use strict";
  const form = document.querySelector("form[data-challenge]");
  if (!form || !window.crypto || !crypto.subtle) return;
  const field = form.querySelector("input[name=solution]");
  const challenge = form.dataset.challenge;
  const bits = Number(form.dataset.bits);
  const encoder = new TextEncoder();
  const CHUNK = 512;
  const zeros = (buffer) => {
    let count = 0;
    for (const byte of new Uint8Array(buffer)) {
      if (byte !== 0) return count + Math.clz32(byte) - 24;
      count += 8;
    }
    return count;
  };
  const solve = async () => {
    for (let start = 0; ; start += CHUNK) {
      const tries = Array.from({ length: CHUNK }, (_, i) => crypto.subtle.digest("SHA-256", encoder.encode(challenge + ":" + (start + i))));
      const found = (await Promise.all(tries)).findIndex((digest) => zeros(digest) >= bits);
      if (found >= 0) return String(start + found);
    }
  };
  const solved = solve().then((solution) => { field.value = solution; });
  form.addEventListener("submit", (event) => {
    if (field.value) return;
    event.preventDefault();
    form.setAttribute("aria-busy", "true");
    solved.then(() => form.submit());
  });
  if (form.hasAttribute("data-auto")) solved.then(() => form.submit());
})();
