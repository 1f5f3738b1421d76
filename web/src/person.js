// Owns the dialog that changes the name of this tab's person, or the person.
import { randomPerson } from "./identity.js";
import { $, paintAvatar } from "./view.js";

/** `page`: `person()`, `holds()` whether the lock is theirs, and `become(person)`. */
export function personDialog({ person, holds, become }) {
  let candidate = person();

  function drawCandidate() {
    paintAvatar($("person-avatar"), candidate.userId, $("person-name").value || candidate.name);
  }
  function show(somebody) {
    candidate = somebody;
    $("person-name").value = somebody.name;
    $("person-email").value = somebody.email;
    drawCandidate();
  }

  $("me").addEventListener("click", () => {
    show(person());
    // Another person would have to leave the lock behind.
    $("person-other").disabled = holds();
    $("person-dialog").showModal();
  });
  $("person-name").addEventListener("input", drawCandidate);
  $("person-cancel").addEventListener("click", () => $("person-dialog").close());
  $("person-other").addEventListener("click", () => show(randomPerson()));
  $("person-form").addEventListener("submit", () => {
    const { userId, name, email } = person();
    // The lock may have been acquired while the dialog was open: it stays with the id that holds it.
    become({
      userId: holds() ? userId : candidate.userId,
      name: $("person-name").value.trim() || name,
      email: $("person-email").value.trim() || email,
    });
  });
}
