//! Invitations that must not let anybody in, and what is left of them.

use adit::key::PrivateKey;

use super::*;

const NOW: UnixTime = UnixTime::new(1_800_000_000);
const HOUR: u64 = 3_600;

fn grant(name: &str) -> Grant {
    Grant { name: name.into(), ports: vec!["2222".into()], ..Grant::default() }
}

fn key() -> PublicKey {
    PrivateKey::generate().unwrap().public()
}

fn invited(folder: &Path) -> (Invitations, Request) {
    let mut invitations = Invitations::load(folder).unwrap();
    let (request, expires_at) = invitations.invite(grant("office"), HOUR, NOW).unwrap();
    assert_eq!(expires_at, NOW.plus(HOUR));
    (invitations, request)
}

/// Who does not hold the secret learns nothing: not whether the invitation exists, is used, or has
/// expired.
#[test]
fn without_the_secret_every_invitation_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let (mut invitations, request) = invited(dir.path());
    let guess = Request { secret: Request::generate().unwrap().secret, ..request };
    let stranger = Request::generate().unwrap();
    let judged = |invitations: &Invitations, at| {
        [&guess, &stranger].map(|request| invitations.judge(request, &key(), at).unwrap_err())
    };
    assert_eq!(judged(&invitations, NOW), [Denied::Unknown; 2]);
    assert_eq!(judged(&invitations, NOW.plus(2 * HOUR)), [Denied::Unknown; 2]);
    invitations.mark_used(guess.id, key(), NOW).unwrap();
    assert_eq!(judged(&invitations, NOW), [Denied::Unknown; 2]);
}

/// After its time an invitation lets nobody in, and its holder is told both times.
#[test]
fn expired_invitations_let_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let (invitations, request) = invited(dir.path());
    let judge = |at| invitations.judge(&request, &key(), at);
    assert_eq!(judge(NOW.plus(HOUR - 1)), Ok(Verdict::Admit(grant("office"))));
    let text = judge(NOW.plus(HOUR)).unwrap_err().to_string();
    let (expired, now) = (NOW.plus(HOUR), NOW.plus(HOUR));
    assert!(text.contains(&format!("expired at {expired}, and the relay's clock says {now}")));
    assert_eq!(invitations.open(NOW.plus(HOUR)).count(), 0);
}

/// One key is let in; it may ask again, should it not have heard the answer. Nobody else is, before
/// or after a restart.
#[test]
fn an_invitation_works_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut invitations, request) = invited(dir.path());
    let (first, second) = (key(), key());
    invitations.mark_used(request.id, first, NOW).unwrap();
    for invitations in [invitations, Invitations::load(dir.path()).unwrap()] {
        let judge = |key| invitations.judge(&request, key, NOW.plus(2 * HOUR));
        assert_eq!(judge(&first), Ok(Verdict::Again(grant("office"))));
        assert_eq!(judge(&second), Err(Denied::Used(NOW)));
    }
}

/// A withdrawn invitation is forgotten, and others are not.
#[test]
fn withdrawn_invitations_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut invitations, office) = invited(dir.path());
    let (garage, _) = invitations.invite(grant("garage"), HOUR, NOW).unwrap();
    assert!(!invitations.withdraw("attic", NOW).unwrap());
    assert!(invitations.withdraw("office", NOW).unwrap());
    let invitations = Invitations::load(dir.path()).unwrap();
    assert_eq!(invitations.judge(&office, &key(), NOW), Err(Denied::Unknown));
    assert_eq!(invitations.judge(&garage, &key(), NOW), Ok(Verdict::Admit(grant("garage"))));
}

/// One line for one name: a second one would leave two people with a right to it.
#[test]
fn a_name_has_one_open_invitation() {
    let dir = tempfile::tempdir().unwrap();
    let (mut invitations, _) = invited(dir.path());
    let refused = invitations.invite(grant("office"), HOUR, NOW).unwrap_err().to_string();
    assert!(refused.contains("`adit-relay revoke office`"), "{refused}");
    invitations.invite(grant("office"), HOUR, NOW.plus(HOUR)).unwrap();
}

/// The file neither grows without end nor holds a secret, and spent ones make room for new ones.
#[test]
fn what_is_kept_is_bounded_and_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (mut invitations, request) = invited(dir.path());
    let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
    let secret = serde_json::to_string(&request.secret).unwrap();
    assert!(!text.contains(secret.trim_matches('"')));

    let one = invitations.kept[0].clone();
    let named = |name: String| Kept { grant: grant(&name), ..one.clone() };
    invitations.kept = (0..INVITATIONS_MAX).map(|index| named(format!("n{index}"))).collect();
    let full = invitations.invite(grant("office"), HOUR, NOW);
    assert!(matches!(full, Err(NotMade::TooMany)), "{full:?}");
    invitations.kept[7].used = Some(Use { by: key(), at: NOW });
    invitations.invite(grant("office"), HOUR, NOW).unwrap();
    assert_eq!(invitations.kept.len(), INVITATIONS_MAX);
    assert!(invitations.kept.iter().all(|kept| kept.used.is_none()), "the spent one has gone");
    let later = NOW.plus(HOUR + REMEMBERED_S);
    invitations.invite(grant("garage"), HOUR, later).unwrap();
    assert_eq!(invitations.kept.len(), 1, "a day later the others are forgotten");
}

/// What cannot be written is not given out, and what cannot be read is not taken for nothing.
#[test]
fn a_broken_state_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut invitations = Invitations { folder: file, kept: Vec::new() };
    let refused = invitations.invite(grant("office"), HOUR, NOW);
    assert!(matches!(refused, Err(NotMade::Unwritable(_))), "{refused:?}");
    assert_eq!(invitations.open(NOW).count(), 0);
    fs::write(dir.path().join(FILE), "[{}]").unwrap();
    let error = Invitations::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("invitations.json") && error.contains("move it away"), "{error}");
}
