//! What those say who know the rules of packages: nothing that they call an error.

use std::path::Path;

use passt_tests::have;

use super::{made, sh};

#[test]
fn packages_have_no_errors() {
    let Some(dir) = made() else { return };
    if !have(&["dpkg-deb", "lintian", "rpmbuild", "rpmlint"]) {
        return;
    }
    sh(&format!("lintian --fail-on error '{}'/*.deb", dir.display()));
    let meant = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("contrib/packages/rpm/rpmlintrc");
    sh(&format!("rpmlint --rpmlintrc '{}' '{}'/*.rpm", meant.display(), dir.display()));
}
