//! A part of the store, drawn as a tree: a node a line, its value behind it.

use alloc::format;
use alloc::string::String;

use crate::store::{Error, Nodes};

/// Draws the nodes below `path`; for a node without children, the node itself.
///
/// # Errors
///
/// [`Error::NotFound`], or that `path` is none.
pub fn draw(nodes: &mut Nodes<'_>, path: &str) -> Result<String, Error> {
    let mut text = String::new();
    let names = nodes.list(path)?;
    if names.is_empty() {
        let value = nodes.read(path)?;
        text += &line(0, path, &value);
    }
    for name in names {
        draw_node(nodes, path.trim_end_matches('/'), &name, 0, &mut text)?;
    }
    Ok(text)
}

fn draw_node(
    nodes: &mut Nodes<'_>,
    above: &str,
    name: &str,
    depth: usize,
    text: &mut String,
) -> Result<(), Error> {
    let path = format!("{above}/{name}");
    *text += &line(depth, name, &nodes.read(&path)?);
    for child in nodes.list(&path)? {
        draw_node(nodes, &path, &child, depth + 1, text)?;
    }
    Ok(())
}

/// What a guest wrote may be anything, so it is shown escaped.
fn line(depth: usize, name: &str, value: &[u8]) -> String {
    format!("{:width$}{name} = \"{}\"\n", "", value.escape_ascii(), width = depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Limits, Server};

    fn store() -> Server {
        let mut server = Server::new(Limits::default());
        for (path, value) in [("/a/x", "1"), ("/a/y/z", "two"), ("/b", "\x1b[2J\"")] {
            server.write(path, value).unwrap();
        }
        server
    }

    #[test]
    fn nodes_are_drawn_below_each_other() {
        let tree = store().nodes(|nodes| draw(nodes, "/a")).unwrap();
        assert_eq!(tree, "x = \"1\"\ny = \"\"\n z = \"two\"\n");
    }

    #[test]
    fn a_single_node_is_drawn_itself_and_harmlessly() {
        let tree = store().nodes(|nodes| draw(nodes, "/b")).unwrap();
        assert_eq!(tree, "/b = \"\\x1b[2J\\\"\"\n");
    }

    #[test]
    fn the_root_can_be_drawn_and_what_is_not_there_can_not() {
        assert!(store().nodes(|nodes| draw(nodes, "/")).unwrap().contains("\n  z = \"two\"\n"));
        assert_eq!(store().nodes(|nodes| draw(nodes, "/none")), Err(Error::NotFound));
    }
}
