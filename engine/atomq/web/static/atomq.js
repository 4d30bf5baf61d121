// An open page is looked at anew every few seconds (htmx does that), but not while nobody sees it, and not while
// something is chosen in it: a row may then stand in another place than the one that was meant.
'use strict';

function isInUse() {
  const live = document.getElementById('live');
  const at = document.activeElement;
  return document.hidden || live.querySelector('input[name=key]:checked') !== null ||
    (live.contains(at) && at.matches('input:not([type=checkbox])'));
}

for (const name of ['htmx:before:request', 'htmx:before:swap']) {
  document.addEventListener(name, (event) => {
    if (isInUse()) {
      event.preventDefault();
    }
  });
}
document.addEventListener('htmx:error', () => document.body.classList.add('is-away'));
document.addEventListener('htmx:after:request', () => document.body.classList.remove('is-away'));

// The box that chooses all of a page; without JavaScript it is not shown.
function showEvery() {
  const every = document.getElementById('every');
  if (every) {
    every.hidden = false;
  }
}
document.addEventListener('change', (event) => {
  if (event.target.id === 'every') {
    for (const box of document.querySelectorAll('input[name=key]')) {
      box.checked = event.target.checked;
    }
  }
});
document.addEventListener('htmx:after:swap', showEvery);
showEvery();
