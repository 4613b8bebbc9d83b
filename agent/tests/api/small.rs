//! A filesystem that is soon full.

use std::path::PathBuf;
use std::process::Command;

/// A small filesystem that is unmounted when it is dropped. Whoever has files there is dropped before.
pub struct Small(PathBuf);

impl Small {
    /// A folder with so much room.
    pub fn new(mib: u32) -> (Self, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting a small filesystem needs root");
        (Small(folder.path().to_path_buf()), folder)
    }

    /// Takes all the room there is.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}
