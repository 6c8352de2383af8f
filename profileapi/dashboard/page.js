"use strict";
(() => {
  const main = document.getElementById("numbers");
  new EventSource("/live").onmessage = (event) => {
    const open = main.querySelector("details")?.open;
    main.innerHTML = event.data;
    const details = main.querySelector("details");
    if (open && details) details.open = true;
  };
})();
