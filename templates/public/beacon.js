/* optin: which letters lead to visits. Asks for nothing and keeps nothing here before optin.consent(true). */
(function (w, d, n) {
  "use strict";
  var here = d.currentScript, key = "optin.device", token, last, agreed;
  if (!here || w.optin) return;
  var to = here.src.replace(/b\.js.*$/, "b");
  var no = n.globalPrivacyControl || n.doNotTrack == 1 || w.doNotTrack == 1 || n.webdriver;
  function kept(value) {
    try {
      if (value) localStorage.setItem(key, value);
      else if (value === "") localStorage.removeItem(key);
      return localStorage.getItem(key);
    } catch (e) {}
  }
  function send(what) {
    if (no && !what.x) return;
    what.t = token;
    what.d = what.d || kept() || undefined;
    if (!what.t && !what.d) return;
    fetch(to, { method: "POST", body: JSON.stringify(what), keepalive: true, credentials: "omit" })
      .then(function (a) { return a.status == 200 && a.json(); })
      .then(function (a) { if (a && a.device && agreed) kept(a.device); })
      .catch(function () {});
  }
  function visit() {
    last = {
      v: Date.now().toString(36) + Math.random().toString(36).slice(2),
      p: location.pathname, n: d.title, r: d.referrer.replace(/[?#].*/, "")
    };
    send(last);
  }
  var rest = location.search.replace(/([?&])oc=([\w-]+)(&|$)/, function (all, before, found, after) {
    token = found;
    return after && before;
  });
  if (token) history.replaceState(history.state, "", location.pathname + rest + location.hash);
  w.optin = {
    visit: visit,
    consent: function (yes) {
      var device = kept();
      agreed = yes;
      if (yes) {
        if (device || !last) return;
        last.c = 1;
        send(last);
      } else if (device) {
        kept("");
        send({ d: device, x: 1 });
      }
    }
  };
  if (d.prerendering) d.addEventListener("prerenderingchange", visit, { once: true });
  else visit();
})(window, document, navigator);
