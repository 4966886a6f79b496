// The token stands behind # in the link, where no server and no log sees it: put it into the form.
"use strict";
const field = document.getElementById("token");
if (location.hash.length > 1) {
  field.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
(field.value ? document.querySelector("[name=name]") : field).focus();
