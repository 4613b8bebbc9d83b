//! Unlocks in the store: active and ended ones.

use portcullis_policy::Name;
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Bypass, State as UnlockState, StrikeKey, Strikes, Subject, Unlock};
use rusqlite::{Connection, OptionalExtension, params};

use super::history::History;
use super::{StoreError, bypasses, signed, sqlite, unsigned};

/// Seconds for which a key of a repeated request is remembered.
const KEY_LIFE: i64 = 86_400;

/// A key with which a request may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    pub caller: String,
    pub key: String,
}

/// What is remembered under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Of what was asked.
    pub digest: [u8; 32],
    /// The unlock that it made.
    pub unlock: String,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
}

/// What is written beside a generation, or without one.
#[derive(Debug, Default, Clone)]
pub struct SideWrites {
    /// Unlocks as they are now.
    pub unlocks: Vec<std::sync::Arc<Unlock>>,
    /// How often a program was revoked, where that changed; gone when absent.
    pub strikes: Vec<(StrikeKey, Option<Strikes>)>,
    pub keys: Vec<(IdempotencyKey, IdempotencyRecord)>,
    pub seen: Option<Moment>,
    pub audit: Vec<portcullis_audit::Entry>,
    /// Bypasses of endpoints that began; those that are over when absent.
    pub bypasses: Vec<(Name, Option<std::sync::Arc<Bypass>>)>,
}

/// What is read at the start.
#[derive(Debug, Default)]
pub struct LoadedUnlocks {
    /// Those of which something can still become.
    pub live: Vec<Unlock>,
    /// How often programs were revoked.
    pub strikes: Vec<(StrikeKey, Strikes)>,
    /// The clocks when the ledger was last advanced.
    pub seen: Option<Moment>,
    pub bypasses: Vec<Bypass>,
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn write(connection: &Connection, side: &SideWrites) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO unlocks (id, endpoint, program, tenant, state, live, requested_at, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, live = excluded.live, body = excluded.body",
    )?;
    for unlock in &side.unlocks {
        let live = !unlock.state.has_ended() || unlock.quarantine.is_some();
        put.execute(params![
            unlock.id.as_str(),
            unlock.endpoint.as_str(),
            unlock.program.as_str(),
            unlock.tenant,
            unlock.state.name(),
            live,
            unlock.requested_at,
            json(&**unlock)?,
        ])?;
    }
    let by_tenant = !side.strikes.is_empty() && counts_by_tenant(connection)?;
    for ((subject, program), strikes) in &side.strikes {
        let (table, column, name) = match subject {
            Subject::Endpoint(endpoint) => ("strikes", "endpoint", endpoint.as_str()),
            Subject::Tenant(tenant) if by_tenant => ("tenant_strikes", "tenant", tenant.as_str()),
            Subject::Tenant(_) => continue,
        };
        match strikes {
            Some(strikes) => connection
                .prepare_cached(&format!(
                    "INSERT OR REPLACE INTO {table} ({column}, program, body) VALUES (?1, ?2, ?3)"
                ))?
                .execute(params![name, program.as_str(), json(strikes)?])?,
            None => connection
                .prepare_cached(&format!(
                    "DELETE FROM {table} WHERE {column} = ?1 AND program = ?2"
                ))?
                .execute(params![name, program.as_str()])?,
        };
    }
    for (key, remembered) in &side.keys {
        connection
            .prepare_cached("DELETE FROM request_keys WHERE at < ?1")?
            .execute([remembered.at - KEY_LIFE])?;
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO request_keys (caller, key, digest, made, at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                key.caller,
                key.key,
                remembered.digest.as_slice(),
                remembered.unlock,
                remembered.at
            ])?;
    }
    bypasses::write(connection, &side.bypasses)?;
    if let Some(seen) = &side.seen {
        connection
            .prepare_cached("INSERT OR REPLACE INTO texts (name, value) VALUES ('seen', ?1)")?
            .execute([json(seen)?])?;
    }
    Ok(())
}

/// Whether there is a place for what counts against tenants: not in a database of an earlier format, which had no room for a
/// migration.
fn counts_by_tenant(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'tenant_strikes')")?
        .query_row([], |row| row.get(0))
}

/// What is remembered under a key, unless it is too long ago.
pub(super) fn remembered(
    connection: &Connection,
    key: &IdempotencyKey,
    now: i64,
) -> rusqlite::Result<Option<IdempotencyRecord>> {
    connection
        .prepare_cached(
            "SELECT digest, made, at FROM request_keys WHERE caller = ?1 AND key = ?2 AND at >= ?3",
        )?
        .query_row(params![key.caller, key.key, now - KEY_LIFE], |row| {
            Ok(IdempotencyRecord {
                digest: row.get(0)?,
                unlock: row.get(1)?,
                at: row.get(2)?,
            })
        })
        .optional()
}

/// Everything of which something can still become. `damaged` makes an error of what cannot be read.
pub(super) fn load(
    connection: &Connection,
    damaged: &dyn Fn(String) -> StoreError,
) -> Result<LoadedUnlocks, StoreError> {
    let failed = || sqlite("read the unlocks");
    let mut loaded = LoadedUnlocks::default();
    let mut select = connection
        .prepare("SELECT id, body FROM unlocks WHERE live")
        .map_err(failed())?;
    let rows = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(failed())?;
    for row in rows {
        let (id, body): (String, String) = row.map_err(failed())?;
        let unlock =
            serde_json::from_str(&body).map_err(|error| damaged(format!("unlocks/{id}: {error}")))?;
        loaded.live.push(unlock);
    }
    let mut query = "SELECT 0, endpoint, program, body FROM strikes".to_string();
    if counts_by_tenant(connection).map_err(failed())? {
        query.push_str(" UNION ALL SELECT 1, tenant, program, body FROM tenant_strikes");
    }
    let mut select = connection.prepare(&query).map_err(failed())?;
    let rows = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .map_err(failed())?;
    for row in rows {
        let (of_tenant, name, program, body): (bool, String, String, String) = row.map_err(failed())?;
        let read = || -> Option<(StrikeKey, Strikes)> {
            let subject = match of_tenant {
                true => Subject::Tenant(name.clone()),
                false => Subject::Endpoint(name.parse().ok()?),
            };
            Some((
                (subject, program.parse().ok()?),
                serde_json::from_str(&body).ok()?,
            ))
        };
        let strikes = read().ok_or_else(|| damaged(format!("strikes of {program} on {name}")))?;
        loaded.strikes.push(strikes);
    }
    loaded.bypasses = bypasses::load(connection, damaged)?;
    let seen: Option<String> = connection
        .query_row("SELECT value FROM texts WHERE name = 'seen'", [], |row| {
            row.get(0)
        })
        .optional()
        .map_err(failed())?;
    loaded.seen = seen
        .map(|text| serde_json::from_str(&text).map_err(|error| damaged(format!("the clocks: {error}"))))
        .transpose()?;
    Ok(loaded)
}

/// What a tenant may reach: unlocks of its endpoints, and those that it had on endpoints that are gone.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    pub tenant: String,
    pub endpoints: Vec<String>,
}

/// Which unlocks are wanted; what is empty is any.
#[derive(Debug, Clone, Default)]
pub struct WantedUnlocks {
    pub endpoint: String,
    pub program: String,
    /// Of this tenant, when they were requested.
    pub tenant: String,
    pub reach: Option<Reach>,
    /// In one of these states.
    pub states: Vec<UnlockState>,
    /// Behind this one, in the order of the list: when it was requested, and its id.
    pub after: Option<(i64, String)>,
    /// Largest number of unlocks.
    pub limit: usize,
}

impl History {
    /// Unlocks, the newest request first.
    pub fn unlocks(&self, wanted: &WantedUnlocks) -> Result<Vec<Unlock>, StoreError> {
        let mut conditions = vec!["1".to_string()];
        let mut values: Vec<rusqlite::types::Value> = Vec::new();
        let mut from = "unlocks";
        if let Some(reach) = &wanted.reach {
            let failed = sqlite("read the unlocks");
            values.push(json(&reach.endpoints).map_err(failed)?.into());
            values.push(reach.tenant.clone().into());
            // Never by going through everybody's.
            from = "(SELECT id FROM unlocks WHERE endpoint IN (SELECT value FROM json_each(?1))
                     UNION SELECT id FROM unlocks WHERE tenant = ?2 AND NOT EXISTS
                     (SELECT 1 FROM resources WHERE kind = 'endpoints' AND name = unlocks.endpoint)) AS reached
                    CROSS JOIN unlocks USING (id)";
        }
        for (column, value) in [
            ("endpoint", &wanted.endpoint),
            ("program", &wanted.program),
            ("tenant", &wanted.tenant),
        ] {
            if !value.is_empty() {
                values.push(value.clone().into());
                conditions.push(format!("{column} = ?{}", values.len()));
            }
        }
        if !wanted.states.is_empty() {
            let names: Vec<String> = wanted.states.iter().map(|s| format!("'{}'", s.name())).collect();
            let mut in_state = format!("state IN ({})", names.join(", "));
            if wanted.states.contains(&UnlockState::AwaitingApproval) {
                // An active one whose renewal waits does, too.
                in_state = format!(
                    "({in_state} OR state IN ('active', 'expiring') AND json_extract(body, '$.renewal') IS NOT NULL)"
                );
            }
            conditions.push(in_state);
        }
        if let Some((at, id)) = &wanted.after {
            values.push((*at).into());
            values.push(id.clone().into());
            let (at, id) = (values.len() - 1, values.len());
            conditions.push(format!("(requested_at, id) < (?{at}, ?{id})"));
        }
        let query = format!(
            "SELECT body FROM {from} WHERE {} ORDER BY requested_at DESC, id DESC LIMIT {}",
            conditions.join(" AND "),
            wanted.limit
        );
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut select = self.connection().prepare_cached(&query)?;
            select
                .query_map(rusqlite::params_from_iter(values), |row| row.get(0))?
                .collect()
        };
        let bodies = read().map_err(sqlite("read the unlocks"))?;
        bodies.iter().map(|body| self.unlock_of(body)).collect()
    }

    /// One unlock, whether it has ended or not.
    pub fn unlock(&self, id: &str) -> Result<Option<Unlock>, StoreError> {
        let body: Option<String> = self
            .connection()
            .query_row("SELECT body FROM unlocks WHERE id = ?1", [id], |row| row.get(0))
            .optional()
            .map_err(sqlite("read the unlocks"))?;
        body.map(|body| self.unlock_of(&body)).transpose()
    }

    fn unlock_of(&self, body: &str) -> Result<Unlock, StoreError> {
        serde_json::from_str(body).map_err(|error| StoreError::Damaged {
            file: self.file().to_path_buf(),
            problem: format!("an unlock: {error}"),
        })
    }
}

/// Number of the newest entry that changes were counted with.
pub(super) fn commits(connection: &Connection) -> rusqlite::Result<u64> {
    let count: i64 = connection.query_row("SELECT value FROM numbers WHERE name = 'commits'", [], |row| {
        row.get(0)
    })?;
    Ok(unsigned(count))
}

/// Number of the newest closing of the journal that is stored.
pub(super) fn closings(connection: &Connection) -> rusqlite::Result<u64> {
    let newest = connection
        .query_row("SELECT value FROM numbers WHERE name = 'closings'", [], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(newest.map_or(0, unsigned))
}

pub(super) fn count_closing(connection: &Connection, number: u64) -> rusqlite::Result<()> {
    if number == 0 {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO numbers (name, value) VALUES ('closings', ?1)
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute([signed(number)])?;
    Ok(())
}

pub(super) fn count_commit(connection: &Connection, number: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE numbers SET value = ?1 WHERE name = 'commits'")?
        .execute([signed(number)])?;
    Ok(())
}
